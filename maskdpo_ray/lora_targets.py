"""Which modules of a model get LoRA adapters, checked before anything starts."""

from __future__ import annotations

from typing import Any

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.quiet import quiet
from maskdpo_ray.training_config import LoraConfig, means


@quiet()
def check(lora: LoraConfig, model: ModelConfig, config: Any) -> None:
    """Refuse names that no linear layer has. Builds the model without weights.

    Args:
        config: of the model in `model`, as transformers reads it.

    Raises ConfigError.
    """
    if not lora.rank or lora.modules is None:
        return
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    linear = {path: module for path, module in built.named_modules() if isinstance(module, torch.nn.Linear)}
    head = built.get_output_embeddings()
    for name in lora.modules:
        meant = [module for path, module in linear.items() if means(name, path)]
        if not meant:
            known = sorted({path.rpartition(".")[2] for path in linear})
            expected = f"all-linear, or names of linear layers ({', '.join(known)})"
            raise ConfigError(f"lora.target_modules: expected {expected}, got {shown(name)}")
        if config.tie_word_embeddings and head in meant:
            raise ConfigError(f"lora.target_modules: expected layers with weights of their own, got {shown(name)}")
