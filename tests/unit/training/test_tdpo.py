"""TDPO2: closed form with the gradient through the rejected response's divergence only. TRL has no such loss."""

from __future__ import annotations

import math

import pytest
import torch
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import load


@pytest.mark.parametrize("alpha", [0.5, 1.0, 0.0])
def test_closed_form(alpha: float) -> None:
    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        margin = BETA * (chosen.ratio - rejected.ratio) - alpha * BETA * (rejected.kl - chosen.kl)
        slope = -BETA * sigmoid(-margin)
        return math.log1p(math.exp(-margin)), Slopes(ratio=slope), Slopes(ratio=-slope, kl=-alpha * slope)

    agrees(load("tdpo", {"alpha": alpha}), pair)


def test_the_chosen_divergence_counts_and_gets_no_gradient() -> None:
    given, objective = tokens(), load("tdpo")
    before = objective.losses(given.batch(objective), BETA)
    before.sum().backward()
    assert not given.kls.grad[:4].any() and (given.kls.grad[4:] >= 0).all() and given.kls.grad[4:].any()
    given.kls.data[:4] += 1
    assert (objective.losses(given.batch(objective), BETA) < before).all()


def test_without_divergences_it_is_dpo() -> None:
    given, objective = tokens(), load("tdpo")
    given.kls.data[:] = 0
    batch = given.batch(objective)
    torch.testing.assert_close(objective.losses(batch, BETA), load("dpo").losses(batch, BETA), atol=0, rtol=1e-14)
