"""A model whose prefix tree is wrong is trained on padded rows; one whose rows are wrong stops before it trains."""

from __future__ import annotations

import math
import re
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
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.training import tree_attention, tree_check
from maskdpo_ray.training.ways import Way

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


def settled(model: Any, dtype: str = "fp32", has_gradient: bool = True, **options: Any) -> Way:
    return tree_check.settle(model, Way(), SavingsConfig(), dtype, "cpu", has_gradient, **options)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_tree_stays(name: str, dtype: str) -> None:
    model = built(RIGHT[name], dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    before = model.config._attn_implementation
    assert settled(model, dtype) == settled(model, dtype, has_gradient=False) == Way()
    assert model.config._attn_implementation == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("vocabulary", "is_zero"), [(98, True), (2, False)])
def test_a_tree_without_a_gradient_and_one_of_two_tokens_stay(vocabulary: int, is_zero: bool) -> None:
    """A head of zeros has no gradient to be a share of."""
    model = built(LlamaConfig(**{**SHAPE, "vocab_size": vocabulary, "pad_token_id": 0}))
    if is_zero:
        torch.nn.init.zeros_(model.get_output_embeddings().weight)
    assert settled(model) == Way()


@pytest.mark.parametrize("has_gradient", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tree_becomes_rows(name: str, has_gradient: bool) -> None:
    model = built(WRONG[name])
    found = settled(model, has_gradient=has_gradient).obstacle
    assert re.match(r"\w+: as a tree log-probs differ by 0\.\d+ on average", found or "")
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_ignores_positions_becomes_rows() -> None:
    obstacle = settled(built(LlamaConfig(**SHAPE), PlacesLlama)).obstacle
    assert obstacle is not None and obstacle.startswith("PlacesLlama: as a tree log-probs differ by ")


def test_a_model_that_fails_on_a_tree_becomes_rows() -> None:
    class Strict(LlamaForCausalLM):
        def forward(self, input_ids: Any, attention_mask: Any = None, use_cache: bool = False, **options: Any) -> Any:
            if "tree" in options:
                raise KeyError("tree")
            return super().forward(input_ids, attention_mask, use_cache=use_cache, **options)

    assert settled(built(LlamaConfig(**SHAPE), Strict)).obstacle == "Strict: as a tree it fails with KeyError: 'tree'"


def test_a_wrong_gradient_becomes_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right log-probs alone are not enough."""
    model = built(LlamaConfig(**SHAPE))
    real = tree_attention.attention

    def half(*arguments: Any, **options: Any) -> Any:
        output, _ = real(*arguments, **options)
        return output.detach() / 2 + output / 2, None

    monkeypatch.setattr(tree_attention, "attention", half)
    tree_attention.install(model)
    assert re.fullmatch(r"LlamaForCausalLM: as a tree gradients differ by \d+%", settled(model).obstacle or "")


def test_ranks_go_one_way() -> None:
    """Faults of one rank are left out on all; `any_rank` says yes where another one has found something."""
    model, answers = built(LlamaConfig(**SHAPE)), iter([False, False, False, True])
    found = settled(model, any_rank=lambda holds: holds or next(answers))
    assert found.obstacle == "LlamaForCausalLM: as a tree it gives other results on another rank"


def test_broken_weights_are_not_put_down_to_the_tree() -> None:
    model = built(LlamaConfig(**SHAPE))
    torch.nn.init.constant_(model.model.layers[0].mlp.down_proj.weight, math.nan)
    with pytest.raises(ModelError, match="expected finite log-probs and gradients, got .*: the weights are"):
        settled(model)


class Padded(LlamaForCausalLM):
    """A model with custom code for which padding counts: it reads the length of the row."""

    def forward(self, input_ids: Any, **options: Any) -> Any:
        output = super().forward(input_ids, **options)
        output.logits[..., 0] += input_ids.shape[1]
        return output


class BothWays(LlamaForCausalLM):
    """A model with custom code that attends to later tokens too."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        mask = attention_mask[:, None, None, :].bool().expand(-1, 1, input_ids.shape[1], -1)
        return super().forward(input_ids, attention_mask=mask, **options)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Padded, "a padded row gives other log-probs than the row alone, by "),
        (BothWays, "the tokens behind a token change its log-prob by "),
    ],
)
def test_rows_that_are_wrong_are_refused(kind: type, reason: str) -> None:
    model = built(LlamaConfig(**SHAPE), kind)
    with pytest.raises(ModelError, match=f"^{kind.__name__}: can't be trained: {reason}"):
        settled(model)


def test_attention_that_leaves_out_what_a_model_asks_for_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' SDPA does not know every argument; a fault in it shows against "eager"."""
    model = built(RobertaConfig(**ENCODER))
    real = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS,
        "sdpa",
        lambda module, query, *rest, **options: real(module, query / 2, *rest, **options),
    )
    settled(model)
    assert model.config._attn_implementation == "eager"
