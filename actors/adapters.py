"""LoRA (arXiv 2106.09685) through PEFT: adapters beside frozen weights, and both merged into plain weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maskdpo_ray.errors import ModelError, one_line
from maskdpo_ray.models import lora_targets
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

    paths = lora_targets.paths(model, lora)
    described = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=paths, task_type="CAUSAL_LM"
    )
    try:
        with _names_as_they_are():
            # Their dtype is the model's: DeepSpeed keeps masters in fp32.
            wrapped = peft.get_peft_model(model, described, autocast_adapter_dtype=False)
    except (ValueError, TypeError) as error:
        raise ModelError(f"lora.target_modules: {one_line(error)}") from error
    if odd := sorted(_layers(wrapped).keys() ^ set(paths)):
        raise ModelError(f"lora.target_modules: expected adapters on linear layers only, PEFT differs: {odd[0]}")
    return wrapped


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Make PEFT adapt exactly the given layers.

    PEFT 0.21 takes names such as gate_proj for those that a mixture of experts had in transformers 4, and adapts the
    tensor that holds all experts instead, which fails under ZeRO-3 or with dropout. Remove when PEFT has an option
    for it.
    """
    from peft.utils import transformers_weight_conversion as conversion

    before = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *arguments, **options: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = before


def _layers(wrapped: Any) -> dict[str, Any]:
    """{dotted path in the plain model: layer} of the layers that have adapters."""
    from peft.tuners.lora import LoraLayer

    return {
        path.removeprefix(_PREFIX): layer for path, layer in wrapped.named_modules() if isinstance(layer, LoraLayer)
    }


def dropouts(wrapped: Any) -> list[torch.nn.Module]:
    """The dropout modules of all adapters."""
    return [layer.lora_dropout for layer in _layers(wrapped).values()]


def merged(wrapped: Any, weights: dict[str, torch.Tensor], dtype: str, seed: int) -> dict[str, torch.Tensor]:
    """The state dict of a wrapped model as one of the plain model: W + (alpha / rank) B A, added up in float32.

    Args:
        wrapped: what `wrap` returned.
        weights: its whole state dict.
        dtype: torch's name of the dtype to round the sums to; they are returned in the dtype of the weights.
        seed: seed of the stochastic rounding.
    """
    layers, plain = _layers(wrapped), {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        path, is_wrapped, parameter = name.removeprefix(_PREFIX).rpartition(_BASE)
        if is_wrapped and parameter == "weight":
            stem, layer = f"{_PREFIX}{path}", layers[path]
            delta = weights[stem + _B].float() @ weights[stem + _A].float()
            delta = delta.T if layer.fan_in_fan_out else delta
            exact = weight.float() + layer.scaling["default"] * delta
            weight = _rounded(exact, dtype, f"{seed}/{path}").to(weight.dtype)
        plain[f"{path}.{parameter}" if is_wrapped else parameter] = weight
    return plain


def _rounded(exact: torch.Tensor, dtype: str, seed: str) -> torch.Tensor:
    """Round `exact` (float32) to `dtype`; to bfloat16 stochastically, up or down, so that the mean is exact.

    An adapter's update to a weight is mostly less than half the distance to the next bfloat16 number: rounding to
    nearest would give the old weight back and lose up to half of what was learned.
    """
    import torch

    if dtype != "bfloat16":
        return exact
    generator = torch.Generator(exact.device).manual_seed(zlib.crc32(seed.encode()))
    bits = exact.contiguous().view(torch.int32)
    # A bfloat16 is the upper half of a float32's bits: the lower half is the probability of rounding up.
    bits = bits + torch.randint(2**16, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    return (bits & ~0xFFFF).view(torch.float32)
