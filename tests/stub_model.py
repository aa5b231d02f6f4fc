"""Model folders of a published shape with no weights in them: a file of safetensors whose data is a hole."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import bad_input

from maskdpo_ray.models import shape


def write(folder: Path, size: str) -> Path:
    """A folder that passes a dry run's checks: config, tokenizer of characters, bf16 tensors by name and shape.

    `size`: key of `shape.SIZES`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    bad_input.small_model(folder)
    config = shape.of_size(size, "size").config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures, config.bos_token_id, config.eos_token_id = [type(model).__name__], 1, 2
    config.save_pretrained(folder)
    header: dict[str, Any] = {}
    end = 0
    for name, parameter in model.named_parameters():  # tied ones once
        start, end = end, end + 2 * prod(parameter.shape)
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file = folder / "model.safetensors"
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded)
    os.truncate(file, 8 + len(encoded) + end)
    return folder
