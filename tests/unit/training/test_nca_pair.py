"""NCA on pairs: closed form, and TRL's loss."""

from __future__ import annotations

import math

import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    own, other = BETA * chosen.ratio, BETA * rejected.ratio
    loss = math.log1p(math.exp(-own)) + math.log1p(math.exp(own)) / 2 + math.log1p(math.exp(other)) / 2
    return loss, Slopes(ratio=BETA * (sigmoid(own) / 2 - sigmoid(-own))), Slopes(ratio=BETA * sigmoid(other) / 2)


def test_closed_form() -> None:
    agrees(load("nca_pair"), pair)


def test_trl() -> None:
    given, objective = tokens(ones=True), load("nca_pair")
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "nca_pair", BETA), given.policy)
