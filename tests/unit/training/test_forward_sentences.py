"""Sentences of one answer as responses: the same tokens in several rows, each with weights of its own."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.records import CHOSEN, REJECTED, Response, TrainingExample
from maskdpo_ray.training.forward import Pass

PADDED = SavingsConfig(cut_tails=False, head_at_targets=False, prefix_tree=False)


def tiny() -> Any:
    """A Llama of one layer in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, **sizes)).eval().double()


def of_sentences(number: int, rng: random.Random, count: int) -> TrainingExample:
    """Sentences of 4 tokens in one answer."""
    token_ids = tuple(rng.randrange(50) for _ in range(12))
    roles = (REJECTED, CHOSEN, CHOSEN)[:count]
    weights = [tuple(0.5 * (at // 4 == place) for at in range(12)) for place in range(count)]
    responses = tuple(Response(role, token_ids, own) for role, own in zip(roles, weights, strict=True))
    return TrainingExample(f"q#{number}", (1, 2, 3), responses)


def summed(model: Any, examples: list[TrainingExample], savings: SavingsConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted sums of log-probs by row, gradient of their weighted sum)."""
    forward = Pass(model, examples, savings=savings)
    logps = forward.logps(forward.logits(model))
    model.zero_grad()
    sums = (forward.weights * logps).sum(-1)
    signs = torch.tensor([1.0 if role == CHOSEN else -1.0 for role in forward.roles])
    (signs * sums).sum().backward()
    return sums.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_a_tree_serves_one_answer_in_several_rows() -> None:
    model, rng = tiny(), random.Random(5)
    examples = [of_sentences(number, rng, count) for number, count in enumerate((3, 1, 2))]
    sums, gradient = summed(model, examples, SavingsConfig())
    expected, expected_gradient = summed(model, examples, PADDED)
    assert torch.allclose(sums, expected, rtol=1e-7, atol=0)
    assert (gradient - expected_gradient).norm() < 1e-7 * expected_gradient.norm()
    assert (sums < 0).all() and len(sums) == 6
