"""Which modules of a model get LoRA adapters, checked before anything starts."""

from __future__ import annotations

from typing import Any

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.quiet import quiet
from maskdpo_ray.training_config import LoraConfig


def names(lora: LoraConfig) -> list[str] | None:
    """Of `lora.target_modules`, without blanks around them; None: all linear layers."""
    given = [name.strip() for name in lora.target_modules.split(",")]
    return None if given == ["all-linear"] else given


def matches(module: str, name: str) -> bool:
    """Whether a module of this dotted path is one that `name` means, as PEFT has it: by its last parts."""
    return module == name or module.endswith(f".{name}")


@quiet()
def check(lora: LoraConfig, model: ModelConfig, config: Any) -> None:
    """Refuse names that no linear layer has. Builds the model without weights.

    Args:
        config: of the model in `model`, as transformers reads it.

    Raises ConfigError.
    """
    wanted = names(lora)
    if not lora.rank or wanted is None:
        return
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    linear = {path: module for path, module in built.named_modules() if isinstance(module, torch.nn.Linear)}
    head = built.get_output_embeddings()
    for name in wanted:
        meant = [module for path, module in linear.items() if matches(path, name)]
        if not meant:
            known = sorted({path.rpartition(".")[2] for path in linear})
            expected = f"all-linear, or names of linear layers ({', '.join(known)})"
            raise ConfigError(f"lora.target_modules: expected {expected}, got {shown(name)}")
        if config.tie_word_embeddings and head in meant:
            raise ConfigError(f"lora.target_modules: expected layers with weights of their own, got {shown(name)}")
