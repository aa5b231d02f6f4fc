"""Every objective over a prefix tree and over padded rows: the same loss and gradients."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.records import CHOSEN, MISMATCHED, REJECTED, Response, TrainingExample
from maskdpo_ray.training.forward import Pass
from maskdpo_ray.training.objectives import protocol
from maskdpo_ray.training.objectives.protocol import Batch, Objective, Responses, sums

VOCABULARY, BETA, SFT_WEIGHT = 200, 0.3, 0.2
PADDED = SavingsConfig(cut_tails=False, head_at_targets=False, prefix_tree=False)
BAR = 1e-7
"""Llama's RMSNorm computes in float32, even in a float64 model."""
MICRO_BATCHES = ([0, 3], [1, 2, 4])


@cache
def model(seed: int) -> Any:
    """A Llama of two layers in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
        return LlamaForCausalLM(config).eval().double()


@cache
def examples() -> tuple[TrainingExample, ...]:
    """Five examples of two prompts with a response in each role; they begin alike, and their tails have no weight."""
    rng = random.Random(3)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(size))

    def response(role: str, beginning: tuple[int, ...]) -> Response:
        token_ids = beginning + ids(rng.randrange(3, 12))
        weights = [rng.choice((0.0, 0.5, 1.0)) for _ in token_ids[:-2]]
        return Response(role, token_ids, (*weights[:-1], 1.0, 0.0, 0.0))

    prompts, result = [ids(9), ids(6)], []
    for number in range(5):
        beginning = ids(number)
        responses = tuple(response(role, beginning) for role in (CHOSEN, REJECTED, MISMATCHED))
        result.append(TrainingExample(f"q#{number}", prompts[number % 2], responses))
    return tuple(result)


def responses(places: list[int], savings: SavingsConfig, objective: Objective) -> dict[str, Responses]:
    """Sums of a micro-batch by role, under the policy and, where the objective asks for it, the reference."""
    forward = Pass(model(1), [examples()[place] for place in places], savings=savings)
    logits, reference, kls = forward.logits(model(1)), None, None
    if objective.needs_reference:
        with torch.no_grad():
            of_reference = forward.logits(model(2))
            reference = forward.logps(of_reference)
        kls = forward.kls(logits, of_reference) if objective.needs_kl else None
    logps = forward.logps(logits)  # last, as a rank does: its backward pass comes first
    found = {}
    for role in (CHOSEN, REJECTED, MISMATCHED):
        rows = [row for row, each in enumerate(forward.roles) if each == role]
        parts = (None if part is None else part[rows] for part in (reference, kls))
        found[role] = sums(logps[rows], next(parts), forward.weights[rows], next(parts))
    return found


def step(name: str, savings: SavingsConfig) -> tuple[float, torch.Tensor]:
    """(loss of the global batch with the SFT term, all gradients as one vector)."""
    objective, policy = protocol.load(name), model(1)
    with torch.no_grad():
        parts = [responses(places, savings, objective) for places in MICRO_BATCHES]
        means = {role: torch.cat([part[role].ratios for part in parts]).mean() for role in objective.needs_means}
    policy.zero_grad()
    total = 0.0
    for places in MICRO_BATCHES:
        found = responses(places, savings, objective)
        losses = objective.losses(Batch(found[CHOSEN], found[REJECTED], means), BETA)
        loss = losses.sum() - SFT_WEIGHT * found[CHOSEN].averages.sum()
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize("name", protocol.names())
def test_a_prefix_tree_gives_what_padded_rows_give(name: str) -> None:
    loss, gradients = step(name, SavingsConfig())
    expected_loss, expected = step(name, PADDED)
    assert loss == pytest.approx(expected_loss, rel=BAR)
    assert (gradients - expected).norm() < BAR * expected.norm()
    assert expected.norm() > 1e-3
