"""Layers that are computed again in the backward pass, without training mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, SeedOssConfig

from maskdpo_ray.errors import ModelError
from maskdpo_ray.training import lean_layers

SHAPE = {
    "vocab_size": 98, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 1,
}  # fmt: skip


def built(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "config",
    [
        SeedOssConfig(**SHAPE, head_dim=8, attention_dropout=0.1, residual_dropout=0.1),
        MixtralConfig(**SHAPE, num_local_experts=4, router_jitter_noise=0.3, sliding_window=None),
        GPT2Config(vocab_size=98, n_embd=32, n_layer=2, n_head=4, n_positions=128),  # dropout .1 by default
    ],
    ids=lambda config: config.model_type,
)
def test_layers_are_computed_again_as_they_were(config: Any) -> None:
    model, plain = built(config), built(config)
    lean_layers.recompute(model)
    layer = next(
        module for module in model.modules() if "Layer" in type(module).__name__ or "Block" in type(module).__name__
    )
    calls: list[Any] = []
    next(layer.children()).register_forward_hook(lambda *_: calls.append(None))
    tokens = torch.arange(3, 23).view(2, 10)
    gradients = []
    for each in (model, plain):
        loss = each(input_ids=tokens, use_cache=False, **rows(each)).logits.float().log_softmax(-1)[..., 5].sum()
        gradients.append(torch.autograd.grad(loss, list(each.parameters()), allow_unused=True))
    assert len(calls) == 2
    for got, expected in zip(*gradients, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            torch.testing.assert_close(got, expected)
    calls.clear()
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False, **rows(model))
    assert len(calls) == 1


def rows(model: Any) -> dict[str, Any]:
    """Two rows need transformers' own attention."""
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    return {}


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="^Linear: .*: set model.gradient_checkpointing_enable to false"):
        lean_layers.recompute(torch.nn.Linear(2, 2))
