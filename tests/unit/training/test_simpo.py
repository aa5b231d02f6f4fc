"""SimPO: closed form, normalised by the sum of weights, and TRL's loss."""

from __future__ import annotations

import math

import pytest
from objective_batches import Slopes, Sums, agrees, sigmoid
from trl_losses import Logits, agree

from maskdpo_ray.training.objectives.protocol import load

BETA = 2.5


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.4])
def test_closed_form(gamma: float) -> None:
    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        margin = BETA * (chosen.policy / chosen.tokens - rejected.policy / rejected.tokens) - gamma
        slope = -BETA * sigmoid(-margin)
        return (
            math.log1p(math.exp(-margin)),
            Slopes(policy=slope / chosen.tokens),
            Slopes(policy=-slope / rejected.tokens),
        )

    agrees(load("simpo", {"gamma": gamma}), pair, BETA)


def test_trl() -> None:
    from trl.experimental.cpo import CPOTrainer

    given = Logits(5)
    attributes = {"beta": BETA, "simpo_gamma": 0.8, "label_smoothing": 0.0, "alpha": 0.0, "cpo_alpha": 0.0}
    theirs = given.loss(CPOTrainer, "cpo_loss", loss_type="simpo", **attributes)
    agree(load("simpo", {"gamma": 0.8}).losses(given.batch(), BETA).mean(), theirs, given.logits)
