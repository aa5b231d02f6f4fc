"""DPO-Positive: closed form on both sides of its kink, and what it is for. TRL has no such loss."""

from __future__ import annotations

import math

import pytest
import torch
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import load


@pytest.mark.parametrize("penalty", [50.0, 5.0, 0.0])
def test_closed_form(penalty: float) -> None:
    signs = set()

    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        signs.add(chosen.ratio > 0)
        margin = BETA * (chosen.ratio - rejected.ratio - penalty * max(0.0, -chosen.ratio))
        slope = -BETA * sigmoid(-margin)
        own = slope * (1 + penalty * (chosen.ratio < 0))
        loss = math.log1p(math.exp(-margin)) if margin > -30 else -margin
        return loss, Slopes(ratio=own), Slopes(ratio=-slope)

    agrees(load("dpop", {"penalty": penalty}), pair)
    assert signs == {True, False}


def test_without_penalty_it_is_dpo() -> None:
    given, objective = tokens(), load("dpop", {"penalty": 0})
    batch = given.batch(objective)
    torch.testing.assert_close(objective.losses(batch, BETA), load("dpo").losses(batch, BETA), atol=0, rtol=1e-14)


def test_a_wider_margin_does_not_pay_for_a_less_likely_chosen_response() -> None:
    given, objective = tokens(), load("dpop")
    losses = []
    for down in (0.0, 1.0):  # both responses less likely, the rejected one three times as much
        given.policy.data[:4], given.policy.data[4:] = given.reference[:4] - down, given.reference[4:] - 3 * down
        batch = given.batch(objective)
        losses.append((objective.losses(batch, BETA), load("dpo").losses(batch, BETA)))
    assert (losses[1][0] > losses[0][0]).all() and (losses[1][1] < losses[0][1]).any()
    assert torch.isfinite(losses[1][0]).all()
