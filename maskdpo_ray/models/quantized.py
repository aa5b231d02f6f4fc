"""Frozen weights in 4 bits beside which adapters are trained: QLoRA (arXiv 2305.14314), through bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from maskdpo_ray.config.schema import DeepspeedConfig
from maskdpo_ray.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch

_NEEDS = "bitsandbytes (pip install bitsandbytes)"


def check(ds: DeepspeedConfig) -> None:
    """Raise ConfigError when 4-bit weights are asked for and their package is missing."""
    if ds.load_in_4bit and find_spec("bitsandbytes") is None:
        raise ConfigError(f"ds.load_in_4bit: expected the package {_NEEDS}, found none")


def options(device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for weights in 4-bit NormalFloat (section 3) with double quantization, multiplied
    in bfloat16. Raises ModelError where this node can't have them.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ModelError(f"ds.load_in_4bit: expected the package {_NEEDS} on every node of a rank, found none")
    described = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": described, "device_map": {"": device}}


def state_dict(model: Any) -> dict[str, torch.Tensor]:
    """`model.state_dict(keep_vars=True)` with weights of 4 bits as the numbers that they stand for.

    These are what training multiplied with: adapters were learned beside their errors, so they are published with them.
    """
    packed = {f"{path}.weight": module for path, module in model.named_modules() if is_quantized(module)}
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in packed:
            weights[name] = _numbers(packed[name])
        elif f"{name.partition('.weight.')[0]}.weight" not in packed or name.endswith(".bias"):
            weights[name] = tensor
    return weights


def is_quantized(layer: Any) -> bool:
    """Whether a layer is a linear one with weights in 4 bits."""
    return type(layer).__name__ == "Linear4bit" and type(layer).__module__.startswith("bitsandbytes.")


def _numbers(layer: Any) -> torch.Tensor:
    """[outputs, inputs] of a 4-bit layer, in the dtype that it multiplies with, in the node's memory."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to("cpu")


def forget(model: Any) -> None:
    """Have transformers save a model, whose weights are given to it as numbers, as one that never was in 4 bits."""
    if getattr(model, "hf_quantizer", None) is None:
        return
    model.hf_quantizer = None
    del model.config.quantization_config
