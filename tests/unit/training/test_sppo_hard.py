"""SPPO with hard labels: closed form, and TRL's loss."""

from __future__ import annotations

import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, tokens

from maskdpo_ray.training.objectives.protocol import load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    own, other = chosen.ratio - 0.5 / BETA, rejected.ratio + 0.5 / BETA
    return own**2 + other**2, Slopes(ratio=2 * own), Slopes(ratio=2 * other)


def test_closed_form() -> None:
    agrees(load("sppo_hard"), pair)


def test_trl() -> None:
    given, objective = tokens(ones=True), load("sppo_hard")
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "sppo_hard", BETA), given.policy)
