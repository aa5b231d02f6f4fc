"""A model whose prefix tree is wrong stops before it trains; a right one passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CamembertConfig,
    DeepseekV3Config,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhimoeConfig,
    RobertaConfig,
    StableLmConfig,
    XLMRobertaConfig,
)

from maskdpo_ray.errors import ModelError
from maskdpo_ray.training import tree_attention, tree_check

SHAPE = {
    "vocab_size": 98, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 1,
}  # fmt: skip
ENCODER = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"} | {"is_decoder": True}
TUNED = {
    "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2, "layer_types": ["full_attention"] * 2,
    "no_rope_layers": [1, 0], "attn_temperature_tuning": True, "floor_scale": 8, "attn_scale": 0.5,
}  # fmt: skip
MLA = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4, "first_k_dense_replace": 2,
}  # fmt: skip


class PlacesLlama(LlamaForCausalLM):
    """A model with custom code that counts indices in the row, whatever `position_ids` says."""

    def forward(self, *arguments: Any, position_ids: Any = None, **options: Any) -> Any:
        return super().forward(*arguments, **options)


def built(config: Any, kind: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = (kind(config) if kind else AutoModelForCausalLM.from_config(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model = model.to(dtype)
    tree_attention.install(model)
    return model


RIGHT = {
    "llama": LlamaConfig(**SHAPE),
    "gpt2": GPT2Config(vocab_size=98, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "experts": PhimoeConfig(**SHAPE, num_local_experts=4),
    "latents": DeepseekV3Config(**{**SHAPE, **MLA}),
    "whole mask": StableLmConfig(**SHAPE),
}
WRONG = {
    "roberta": RobertaConfig(**ENCODER),
    "xlm-roberta": XLMRobertaConfig(**ENCODER),
    "camembert": CamembertConfig(**ENCODER),
    "tuned by place": Llama4TextConfig(**SHAPE, **TUNED),
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_tree_passes(name: str, dtype: str) -> None:
    model = built(RIGHT[name], dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    way = model.config._attn_implementation
    tree_check.check(model, dtype, "cpu", has_gradient=True)
    tree_check.check(model, dtype, "cpu", has_gradient=False)
    assert model.config._attn_implementation == way
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("vocabulary", "is_zero"), [(98, True), (2, False)])
def test_a_tree_without_a_gradient_and_one_of_two_tokens_pass(vocabulary: int, is_zero: bool) -> None:
    """A head of zeros has no gradient to be a share of."""
    model = built(LlamaConfig(**{**SHAPE, "vocab_size": vocabulary, "pad_token_id": 0}))
    if is_zero:
        torch.nn.init.zeros_(model.get_output_embeddings().weight)
    tree_check.check(model, "fp32", "cpu", has_gradient=True)


@pytest.mark.parametrize("has_gradient", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tree_stops(name: str, has_gradient: bool) -> None:
    with pytest.raises(ModelError, match=r"log-probs by 0\.\d+ on average.*: set savings.prefix_tree to false"):
        tree_check.check(built(WRONG[name]), "fp32", "cpu", has_gradient)


def test_broken_weights_are_not_put_down_to_the_tree() -> None:
    model = built(LlamaConfig(**SHAPE))
    torch.nn.init.constant_(model.model.layers[0].mlp.down_proj.weight, math.nan)
    with pytest.raises(ModelError, match="expected finite log-probs and gradients, got .*: the weights are"):
        tree_check.check(model, "fp32", "cpu", has_gradient=True)


def test_a_model_that_ignores_positions_stops() -> None:
    with pytest.raises(ModelError, match="PlacesLlama: a prefix tree gives other results"):
        tree_check.check(built(LlamaConfig(**SHAPE), PlacesLlama), "fp32", "cpu", True)


def test_a_wrong_gradient_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right log-probs alone are not enough."""
    model = built(LlamaConfig(**SHAPE))
    real = tree_attention.attention

    def half(*arguments: Any, **options: Any) -> Any:
        output, _ = real(*arguments, **options)
        return output.detach() / 2 + output / 2, None

    monkeypatch.setattr(tree_attention, "attention", half)
    tree_attention.install(model)
    with pytest.raises(ModelError, match=r"\(gradients by \d+%"):
        tree_check.check(model, "fp32", "cpu", True)
