"""RSO's hinge loss: closed form, and TRL's."""

from __future__ import annotations

import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, tokens

from maskdpo_ray.training.objectives.protocol import load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    margin = 1 - BETA * (chosen.ratio - rejected.ratio)
    slope = -BETA if margin > 0 else 0.0
    return max(0.0, margin), Slopes(ratio=slope), Slopes(ratio=-slope)


def test_closed_form() -> None:
    agrees(load("hinge"), pair)


def test_trl() -> None:
    given, objective = tokens(ones=True), load("hinge")
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "hinge", BETA), given.policy)


def test_a_pair_beyond_the_margin_teaches_nothing() -> None:
    given, objective = tokens(), load("hinge")
    given.reference[:4] -= 100
    losses = objective.losses(given.batch(objective), BETA)
    losses.sum().backward()
    assert losses.tolist() == [0.0] * 4 and not given.policy.grad.any()
