"""LoRA (arXiv 2106.09685) through PEFT: adapters beside frozen weights, and both merged into plain weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskdpo_ray.errors import ModelError, one_line
from maskdpo_ray.training_config import LoraConfig

if TYPE_CHECKING:
    import torch

_PREFIX, _BASE, _A, _B = "base_model.model.", ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""How PEFT names things in a state dict."""


def wrap(model: Any, lora: LoraConfig) -> Any:
    """`model` with adapters that add nothing yet; its own weights are frozen.

    Raises ModelError when PEFT can't wrap what `lora.target_modules` names.
    """
    import peft

    described = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.modules or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        # Their dtype is the model's: DeepSpeed keeps masters in fp32.
        return peft.get_peft_model(model, described, autocast_adapter_dtype=False)
    except (ValueError, TypeError) as error:
        raise ModelError(f"lora.target_modules: {one_line(error)}") from error


def merged(weights: dict[str, torch.Tensor], lora: LoraConfig) -> dict[str, torch.Tensor]:
    """The state dict of a wrapped model as one of the plain model: W + (alpha / rank) B A, added up in float32."""
    plain = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        module, is_wrapped, parameter = name.removeprefix(_PREFIX).rpartition(_BASE)
        if is_wrapped and parameter == "weight":
            stem = f"{_PREFIX}{module}"
            delta = weights[stem + _B].float() @ weights[stem + _A].float()
            weight = (weight.float() + lora.alpha / lora.rank * delta).to(weight.dtype)
        plain[f"{module}.{parameter}" if is_wrapped else parameter] = weight
    return plain
