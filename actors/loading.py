"""Loading a model from its folder into a rank, for training and the reference, and reading its weights back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors import strategy as strategies
from actors.training_settings import DTYPES, TrainingSettings
from maskdpo_ray.errors import ModelError

if TYPE_CHECKING:
    import torch


def load(path: str, strategy: Any, settings: TrainingSettings, any_rank: Callable[[bool], bool]) -> Any:
    """An HF causal language model; under ZeRO-3 every rank holds its part only. Collective.

    Args:
        strategy: the result of `strategies.build`, set up.
        any_rank: tells whether a condition holds on any rank.

    Raises ModelError, on all ranks, unless the folder holds exactly the model's weights and all are finite.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.training import lean_layers, tree_attention

    with strategies.partitioned_loading(strategy):
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, DTYPES[settings.param_dtype]),
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{path}: expected a weight for every parameter, {len(missing)} missing: {missing[0]}")
    # A model with custom code may load its weights in its own way.
    if (unexpected := sorted(report["unexpected_keys"])) and not settings.trust_remote_code:
        raise ModelError(f"{path}: expected the model's weights only, {len(unexpected)} more: {unexpected[0]}")
    odd = next((name for name, own in own_parts(model) if not own.isfinite().all()), "")
    if any_rank(bool(odd)):
        raise ModelError(f"{path}: expected finite weights, got NaN or infinity in {odd or 'the part of another rank'}")
    if strategy.stage < 3:
        model = model.to(strategies.device_of(settings.device))
    if settings.savings.prefix_tree:
        tree_attention.install(model)
    if settings.savings.lean_layers:
        lean_layers.install(model)
    return model


def own_parts(model: Any) -> list[tuple[str, torch.Tensor]]:
    """(name, this rank's part) of each parameter."""
    return [(name, getattr(each, "ds_tensor", each).data) for name, each in model.named_parameters()]


def round_to(model: Any, dtype: str) -> None:
    """Round each weight to `dtype` (torch's name) and back, in place, as an engine of that dtype does."""
    import torch

    for _, own in own_parts(model):
        own.copy_(own.to(getattr(torch, dtype)))


def state_dict(model: Any) -> dict[str, torch.Tensor]:
    """Weights that own their memory, tied ones once: ZeRO keeps all in one flat buffer."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach().clone()
    return weights
