"""Robust DPO: closed form, TRL's loss, and what it is for: unbiased under flipped labels."""

from __future__ import annotations

import math

import pytest
import torch
import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import Batch, load


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_closed_form(share: float) -> None:
    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        margin = BETA * (chosen.ratio - rejected.ratio)
        loss = ((1 - share) * math.log1p(math.exp(-margin)) - share * math.log1p(math.exp(margin))) / (1 - 2 * share)
        slope = BETA * (-(1 - share) * sigmoid(-margin) - share * sigmoid(margin)) / (1 - 2 * share)
        return loss, Slopes(ratio=slope), Slopes(ratio=-slope)

    agrees(load("robust", {"label_smoothing": share}), pair)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_trl(share: float) -> None:
    given, objective = tokens(ones=True), load("robust", {"label_smoothing": share})
    theirs = trl_losses.dpo(given, "robust", BETA, label_smoothing=share)
    trl_losses.agree(objective.losses(given.batch(objective), BETA).mean(), theirs, given.policy)


def test_its_mean_over_flipped_labels_is_dpo() -> None:
    share, given = 0.2, tokens()
    objective, dpo = load("robust", {"label_smoothing": share}), load("dpo")
    batch = given.batch(objective)
    right, wrong = objective.losses(batch, BETA), objective.losses(Batch(batch.rejected, batch.chosen), BETA)
    torch.testing.assert_close((1 - share) * right + share * wrong, dpo.losses(batch, BETA))
