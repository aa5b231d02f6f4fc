"""The files of a model that an annotator or evaluator runs: what can be told of them at once, and loading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maskdpo_ray import plain_model, weights_file
from maskdpo_ray.errors import ConfigError, ModelError, one_line, shown
from maskdpo_ray.models import other_folders
from maskdpo_ray.quiet import quiet


def described(model: str, field: str) -> dict[str, Any]:
    """What config.json in the folder `model` holds; nothing when that is no object.

    Raises ConfigError about the option `field` when there is no such file, ModelError as `plain_model.check` does.
    """
    try:
        value = json.loads((Path(str(model)) / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        expected = "expected the folder of a model, with config.json"
        reason = f": {error.strerror if isinstance(error, OSError) else error}"
        if not (Path(str(model)) / "config.json").is_file():
            reason = other_folders.described(str(model)) or reason
        raise ConfigError(f"{field}: {expected}, got {shown(model)}{reason}") from None
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    plain_model.check(Path(str(model)), found)
    return found


def refuse_no_weights(folder: Path, field: str) -> None:
    """Raise ModelError, about the option `field` or a file, unless there are safetensors and they are whole."""
    if not list(folder.glob("*.safetensors")):
        instead = other_folders.weights(folder)
        found = f"found {instead}" if instead else "found none"
        raise ModelError(f"{field}: expected safetensors in {str(folder)!r}, {found}")
    refuse_damaged_weights(folder)


def refuse_damaged_weights(folder: Path) -> None:
    """Raise ModelError unless the header of every safetensors file in the folder is whole and fits the file's size."""
    for file in sorted(folder.glob("*.safetensors")):
        with weights_file.opened(file):
            pass


@quiet()
def config(folder: Path) -> Any:
    """As transformers reads it from the folder. Raises ModelError, one line, when it can't."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # broken files make transformers raise errors of all kinds
        where = folder / "config.json"
        raise ModelError(f"{where}: expected the config of a model, got: {one_line(error)}") from error


@quiet()
def tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in the folder. Raises ModelError, one line, when there is none."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # as in `config`
        raise ModelError(f"{folder}: expected a tokenizer, got: {one_line(error)}") from None
    # Without its files transformers makes one up, to which every word is unknown.
    files = getattr(found, "vocab_files_names", {}).values()
    if files and not any((folder / file).is_file() for file in files):
        raise ModelError(f"{folder}: expected a tokenizer, got none of {', '.join(files)}")
    return found


@quiet()
def load(kind: Any, folder: Path, expected: str) -> Any:
    """The model in the folder, an auto class of transformers being its `kind`, in float32.

    Raises ModelError, one line, when that can't be loaded, or weights are missing; `expected` says what it should be.
    """
    import torch

    try:
        network, report = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:  # as in `config`
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ModelError(f"{folder}: expected {expected}, got: {reason}") from error
    if report["missing_keys"]:  # transformers fills them with random numbers
        missing = sorted(report["missing_keys"])[0]
        raise ModelError(f"{folder}: expected all weights of the model, got none for {missing}")
    return network.eval()
