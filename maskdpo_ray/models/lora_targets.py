"""Selection of the layers that get LoRA adapters, checked before anything starts."""

from __future__ import annotations

from typing import Any

from maskdpo_ray.config.schema import LoraConfig, ModelConfig, means
from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.models import quantized
from maskdpo_ray.terminal import quiet


def linear_layers(model: Any) -> dict[str, Any]:
    """{dotted path: layer} of the layers that compute x W (+ b) and nothing else, in model order.

    Only these can be merged exactly as W + B A. Excluded are experts whose weights share one tensor, and routers that
    subclass a linear layer but also select experts.
    """
    import torch
    from transformers.pytorch_utils import Conv1D  # GPT-2's, whose weight is [inputs, outputs]

    kinds = torch.nn.Linear.forward, Conv1D.forward
    return {
        path: layer
        for path, layer in model.named_modules()
        if type(layer).forward in kinds or quantized.is_quantized(layer)
    }


def sizes(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of one of `linear_layers`."""
    return (layer.nx, layer.nf) if hasattr(layer, "nx") else (layer.in_features, layer.out_features)


def paths(model: Any, lora: LoraConfig) -> list[str]:
    """Dotted paths of the layers that get adapters: `all-linear` means all linear layers but the LM head."""
    layers, head = linear_layers(model), model.get_output_embeddings()
    if lora.modules is None:
        return [path for path, layer in layers.items() if layer is not head]
    return [path for path in layers if lora.adapts(path)]


@quiet()
def check(lora: LoraConfig, model: ModelConfig, config: Any) -> None:
    """Refuse names that no linear layer has. Builds the model without weights.

    Args:
        config: of the model in `model`, as transformers reads it.

    Raises ConfigError.
    """
    if not lora.rank:
        return
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    if not paths(built, lora) and lora.modules is None:
        kind = type(built).__name__
        raise ConfigError(f"lora.rank: expected 0 for {kind}, which has no linear layers, got {lora.rank}")
    layers, head = linear_layers(built), built.get_output_embeddings()
    for name in lora.modules or []:
        meant = [layer for path, layer in layers.items() if means(name, path)]
        if not meant:
            known = sorted({path.rpartition(".")[2] for path in layers})
            expected = f"all-linear, or names of linear layers ({', '.join(known)})"
            raise ConfigError(f"lora.target_modules: expected {expected}, got {shown(name)}")
        if config.tie_word_embeddings and head in meant:
            raise ConfigError(f"lora.target_modules: expected layers with weights of their own, got {shown(name)}")
