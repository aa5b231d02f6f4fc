"""Norms and MLPs that keep less, against transformers' own under autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SeedOssConfig,
    SmolLM3Config,
)
from transformers.models.idefics.modeling_idefics import IdeficsMLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from maskdpo_ray.training import lean_layers

SHAPE = {
    "vocab_size": 30, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6, "pad_token_id": None,
}  # fmt: skip


def both(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(transformers', ours), with the same random weights."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    ours = copy.deepcopy(module)
    assert lean_layers.install(ours) == 1
    return module, ours


def results(module: nn.Module, x: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(output, gradients of input and weights)."""
    x = x.clone().requires_grad_()
    output = module(x)
    return output.detach(), list(torch.autograd.grad(output, [x, *module.parameters()], by))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["norm", "mlp"])
def test_equals_transformers(kind: str, dtype: torch.dtype) -> None:
    module = LlamaRMSNorm(12, eps=1e-5) if kind == "norm" else LlamaMLP(LlamaConfig(**SHAPE))
    theirs, ours = both(module.to(dtype))
    x, by = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(2)).to(dtype)
    output, gradients = results(ours, x, by)
    expected, expected_gradients = results(theirs, x, by)
    assert torch.equal(output, expected)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


def test_frozen_weights_have_no_gradient() -> None:
    norm = LlamaRMSNorm(12)
    lean_layers.install(norm)
    norm.weight.requires_grad_(False)
    x = torch.randn(4, 12, requires_grad=True)
    norm(x).sum().backward()
    assert norm.weight.grad is None and x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (LlamaConfig, 2 * 3 + 1),
        (MistralConfig, 2 * 3 + 1),
        (Qwen2Config, 2 * 3 + 1),
        (Qwen3Config, 2 * 5 + 1),  # norms of queries and keys, too
        (SmolLM3Config, 2 * 3 + 1),
        (SeedOssConfig, 2 * 2 + 1),  # its MLPs have dropout
        (Gemma2Config, 2),  # its norms compute something else
    ],
)
def test_what_is_replaced(config: type, count: int) -> None:
    assert lean_layers.install(AutoModelForCausalLM.from_config(config(**SHAPE))) == count


def test_another_layer_is_left_alone() -> None:
    class Other(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return hidden_states

    class Dropping(LlamaMLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
            down_proj = nn.functional.dropout(down_proj, p=0.5, training=self.training)
            return down_proj

    for module in (Other(12), Dropping(LlamaConfig(**SHAPE)), nn.LayerNorm(12)):
        assert lean_layers.install(module) == 0


def test_both_spellings() -> None:
    """Code of MLPs in transformers, and with a docstring, comments and types."""

    class Described(LlamaMLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Gate, up, down."""
            # As Llama's.
            down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
            return down_proj

    assert lean_layers.install(Described(LlamaConfig(**SHAPE))) == 1
    assert lean_layers.install(IdeficsMLP(12, 20, "silu")) == 1
