"""APO-zero: closed form, and TRL's loss."""

from __future__ import annotations

import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    own, other = BETA * chosen.ratio, BETA * rejected.ratio
    slopes = (BETA * sigmoid(x) * sigmoid(-x) for x in (own, other))
    return sigmoid(-own) + sigmoid(other), Slopes(ratio=-next(slopes)), Slopes(ratio=next(slopes))


def test_closed_form() -> None:
    agrees(load("apo_zero"), pair)


def test_trl() -> None:
    given, objective = tokens(ones=True), load("apo_zero")
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "apo_zero", BETA), given.policy)
