"""Attention that a prefix tree can't have is seen when a model is looked at; the rest is exact."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DogeConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    NemotronConfig,
    Phi3Config,
    StableLmConfig,
)

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import prefix_tree, tree_attention, ways
from maskdpo_ray.training.forward import response_logps
from maskdpo_ray.training.tree_attention import NoTree

NONE = SavingsConfig(**{field.name: False for field in fields(SavingsConfig)})
SHAPE = {
    "vocab_size": 98, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None,
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"
ROPE = {"rope_theta": 1e4}
LONGROPE = {**ROPE, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
ORIGINAL = {"original_max_position_embeddings": 32}
NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}
MLA = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4, "first_k_dense_replace": 2,
}  # fmt: skip


def pairs(longest: int = 24) -> list[TrainingExample]:
    """Two pairs that begin alike, with answers of other lengths, one of them with a tail that has no weight."""
    random = torch.Generator().manual_seed(3)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 98, (size,), generator=random).tolist())

    beginning, result = ids(4), []
    for name in "ab":
        prompt, chosen, rejected = beginning + ids(2), ids(longest - 6), ids(5)
        weights = (1.0,) * (len(chosen) - 3) + (0.0,) * 3
        result.append(TrainingExample.of_pair(name, prompt, chosen, rejected, weights, (1.0,) * 5))
    return result


def built(config: Any) -> Any:
    """A random model that is far from a uniform one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def results(model: Any, savings: SavingsConfig, examples: list[TrainingExample]) -> list[torch.Tensor]:
    """[log-probs, gradients of each parameter]."""
    logps, _ = response_logps(model, examples, savings=savings)
    return [logps, *torch.autograd.grad((logps * logps.detach()).sum(), list(model.parameters()))]


@pytest.mark.parametrize(
    ("config", "way"),
    [
        (GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=98, n_positions=64), tree_attention.GROUPED),
        (DeepseekV3Config(**{**SHAPE, **MLA}), tree_attention.GROUPED),  # values are smaller than keys
        (Gemma2Config(**SHAPE, head_dim=8, attn_logit_softcapping=None), tree_attention.GROUPED),
        (Phi3Config(**SHAPE, **ORIGINAL, rope_parameters={**LONGROPE}), tree_attention.GROUPED),
        (LlamaConfig(**SHAPE, rope_parameters={**ROPE, "rope_type": "dynamic", "factor": 4.0}), tree_attention.GROUPED),
        (FalconConfig(**SHAPE), "sdpa"),
        (StableLmConfig(**SHAPE), "sdpa"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_accepted_models_are_exact(config: Any, way: str) -> None:
    assert ways.of_config(config, 32) == ways.Way()
    model = built(config)
    model.set_attn_implementation("sdpa")
    expected = results(model, NONE, pairs())
    assert tree_attention.install(model) == way
    for got, wanted in zip(results(model, SavingsConfig(), pairs()), expected, strict=True):
        # Norms and router in float32 whatever the dtype of the model.
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            GPTNeoConfig(vocab_size=98, hidden_size=32, max_position_embeddings=64, **NEO),
            "GPTNeoForCausalLM has eager attention only",
        ),
        (FalconConfig(**SHAPE, attn_implementation="eager"), "FalconForCausalLM has eager attention only"),
        (NemotronConfig(**SHAPE), "NemotronAttention is not told of the tree by the model's layers"),
        (DogeConfig(**SHAPE), "DogeAttention has attention with a mask of its own, which a tree lacks"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_attention_that_a_tree_lacks(config: Any, reason: str) -> None:
    assert ways.of_config(config, 32) == ways.Way(reason)


def test_a_rank_sees_it_too() -> None:
    """Model whose code was not looked at, as with trust_remote_code."""
    neo = AutoModelForCausalLM.from_config(GPTNeoConfig(vocab_size=98, hidden_size=32, **NEO))
    with pytest.raises(NoTree, match="^GPTNeoForCausalLM has eager attention only$"):
        tree_attention.install(neo)
    model = built(NemotronConfig(**SHAPE))
    tree_attention.install(model)
    with pytest.raises(NoTree, match="^NemotronAttention is not told of the tree by the model's layers$"):
        response_logps(model, pairs())


def test_a_mask_of_bools_goes_to_sdpa_alone() -> None:
    model = built(LlamaConfig(**SHAPE))
    model.set_attn_implementation("eager")
    with pytest.raises(
        NoTree, match="^LlamaForCausalLM has eager attention, which reads a mask of bools in another way"
    ):
        response_logps(model, pairs())


def test_attention_asked_for_more_is_refused() -> None:
    one, module = torch.randn(1, 2, 1, 4), torch.nn.Module()
    output, _ = tree_attention.attention(module, one, one, one, None, softcap=5.0, sliding_window=8, is_causal=True)
    torch.testing.assert_close(output, one.transpose(1, 2))
    with pytest.raises(NoTree, match="^Module has attention with position_bias"):
        tree_attention.attention(module, one, one, one, None, position_bias=one)
    with pytest.raises(ModelError, match="^Module: expected attention to tokens before alone, got is_causal=False$"):
        tree_attention.attention(module, one, one, one, None, is_causal=False)


def test_a_sink_takes_weight_from_a_single_key() -> None:
    one, sinks = torch.ones(1, 2, 1, 4), torch.tensor([2.0, -1e9])  # scores of 4 * 4 ** -0.5 = 2
    output, _ = tree_attention.attention(torch.nn.Module(), one, one, one, None, s_aux=sinks)
    torch.testing.assert_close(output[0, 0], torch.tensor([[0.5], [1.0]]).expand(2, 4))


WINDOWED: dict[str, Any] = {
    "one type": MistralConfig(**SHAPE, sliding_window=5),
    "two types, capped": Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=5, layer_types=[SLIDING, FULL], attn_logit_softcapping=2.0
    ),
    "with sinks": GptOssConfig(
        **SHAPE,
        head_dim=8,
        sliding_window=5,
        layer_types=[SLIDING, FULL],
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={**ROPE, "rope_type": "default"},
    ),
    "with sinks in all layers": GptOssConfig(
        **SHAPE,
        head_dim=8,
        layer_types=[FULL, FULL],
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={**ROPE, "rope_type": "default"},
    ),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_caps_and_sinks_are_exact(name: str) -> None:
    """Against transformers' "eager" attention on padded rows, whose softmax of padding is NaN in float64."""
    config = WINDOWED[name]
    assert ways.of_config(config, 64).obstacle is None
    model = built(config).float()
    model.set_attn_implementation("eager")
    expected = results(model, NONE, pairs())
    assert tree_attention.install(model) == tree_attention.GROUPED
    for got, wanted in zip(results(model, SavingsConfig(), pairs()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_windows_count_tokens_before_and_not_nodes_between() -> None:
    """FlexAttention's mask is that of the layout on a CPU."""
    tree = prefix_tree.build([[1, 2, 3]] * 3, [[4, 5, 6], [4, 7], [8, 9, 10]], [[1.0] * 3, [1.0] * 2, [1.0] * 3])
    every = torch.arange(len(tree.token_ids))
    mask = tree_attention.flex_mask(tree, "cpu", 3).mask_mod
    found = mask(None, None, every[:, None], every[None, :])
    distance = tree.depths[:, None] - tree.depths[None, :]
    assert np.array_equal(found.numpy(), tree.visible & (distance < 3)) and found.any(1).all()
    layout = tree_attention.layout(tree, "cpu")
    assert layout.within(None) == (layout.trunk_mask, layout.own_mask)
    trunk, own = layout.within(3)
    nodes, (owners, _, longest, _) = layout.trunk, own.shape
    assert torch.equal(trunk[0, 0], found[nodes][:, nodes])
    for owner in range(owners):
        picked = layout.own.view(owners, longest)[owner]
        is_node = layout.own_mask[owner, 0].sum(1) > 1  # what pads sees itself alone
        keys, seen = torch.cat([nodes, picked]), torch.cat([torch.ones(len(nodes), dtype=torch.bool), is_node])
        assert torch.equal(own[owner, 0][is_node][:, seen], found[picked[is_node]][:, keys[seen]])


@pytest.mark.parametrize("savings", [NONE, SavingsConfig()], ids=["none", "all"])
def test_logits_of_other_positions_are_refused(savings: SavingsConfig) -> None:
    """A model's own code may not know `logits_to_keep`, and say nothing."""

    class Own(LlamaForCausalLM):
        def forward(self, *arguments: Any, logits_to_keep: Any = 0, **keywords: Any) -> Any:
            return super().forward(*arguments, **keywords)

    model = Own(LlamaConfig(**SHAPE))
    if not savings.head_at_targets:
        assert response_logps(model, pairs(), savings=savings)[0].shape == (4, 18)
        return
    with pytest.raises(ModelError, match=r"^Own: logits_to_keep: expected logits of \d+ positions in each of 1 rows"):
        response_logps(model, pairs(), savings=savings)
