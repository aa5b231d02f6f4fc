"""The files of a model that an annotator runs: what can be told of them without loading the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskdpo_ray import weights_file
from maskdpo_ray.errors import ModelError, one_line


def refuse_damaged_weights(folder: Path) -> None:
    """Raise ModelError unless the header of every safetensors file in the folder is whole and fits the file's size."""
    for file in sorted(folder.glob("*.safetensors")):
        with weights_file.opened(file):
            pass


def tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in the folder. Raises ModelError, one line, when there is none."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # broken files make transformers raise errors of all kinds
        raise ModelError(f"{folder}: expected a tokenizer, got: {one_line(error)}") from None
    # Without its files transformers makes one up, to which every word is unknown.
    files = getattr(found, "vocab_files_names", {}).values()
    if files and not any((folder / file).is_file() for file in files):
        raise ModelError(f"{folder}: expected a tokenizer, got none of {', '.join(files)}")
    return found
