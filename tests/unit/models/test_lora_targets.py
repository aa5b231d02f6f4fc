"""lora.target_modules against the layers that the model has, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaConfig

from maskdpo_ray.config.schema import LoraConfig, ModelConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.models import lora_targets


def check(folder: Path, names: str, rank: int = 4, **changes: bool) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, LlamaConfig)
    for name, value in changes.items():
        setattr(config, name, value)
    lora_targets.check(LoraConfig(rank=rank, target_modules=names), ModelConfig(str(folder)), config)


NAMES = ["all-linear", "q_proj", "q_proj, v_proj", "self_attn.o_proj", "layers.0.mlp.up_proj"]


@pytest.mark.parametrize("names", NAMES)
def test_names_of_linear_layers_pass(tiny_model: Path, names: str) -> None:
    check(tiny_model, names)


@pytest.mark.parametrize("name", ["attention", "proj", "self_attn", "embed_tokens", "norm", "all-linear"])
def test_a_name_that_no_linear_layer_has_is_refused(tiny_model: Path, name: str) -> None:
    known = "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(ConfigError) as refused:
        check(tiny_model, f"q_proj,{name}")
    expected = f"expected all-linear, or names of linear layers ({known}), got '{name}'"
    assert str(refused.value) == f"lora.target_modules: {expected}"


def test_an_lm_head_that_is_the_embedding_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="^lora.target_modules: expected layers with weights of their own"):
        check(tiny_model, "lm_head")
    check(tiny_model, "lm_head", tie_word_embeddings=False)


def test_without_adapters_nothing_is_looked_at(tiny_model: Path) -> None:
    check(tiny_model, "attention", rank=0)
