"""KTO of single responses: closed form, TRL's loss with its estimate of the divergence, unequal numbers."""

from __future__ import annotations

import pytest
import torch
import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import Batch, load

WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.75}


@pytest.mark.parametrize("options", [{}, WEIGHTS])
def test_closed_form(options: dict[str, float]) -> None:
    z_0 = 0.3  # mean of the batch of `tokens`

    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        own, other = BETA * (chosen.ratio - z_0), BETA * (z_0 - rejected.ratio)
        good, bad = options.get("desirable_weight", 1.0), options.get("undesirable_weight", 1.0)
        of_own, of_other = -good * BETA * sigmoid(own) * sigmoid(-own), bad * BETA * sigmoid(other) * sigmoid(-other)
        return good * sigmoid(-own) + bad * sigmoid(-other), Slopes(ratio=of_own), Slopes(ratio=of_other)

    agrees(load("kto", options), pair)


@pytest.mark.parametrize("seed", range(3))
def test_trl(seed: int) -> None:
    """TRL estimates the divergence within its batch; a rank gives us the mean over the global one."""
    given, others, objective = tokens(ones=True, seed=seed), tokens(ones=True, seed=seed + 9), load("kto", WEIGHTS)
    others.reference -= 0.5 * seed - 0.5  # so that it is clamped once, and twice not
    batch = others.batch(objective)
    given.means["mismatched"] = torch.cat([batch.chosen.ratios, batch.rejected.ratios]).mean().detach()
    assert (given.means["mismatched"] < 0) == (seed == 0)
    ours = objective.losses(given.batch(objective), BETA)
    theirs = trl_losses.kto(given, others, BETA, 1.5, 0.75)
    trl_losses.agree(ours.mean(), theirs, given.policy)


def test_a_divergence_below_zero_is_none() -> None:
    given, objective = tokens(), load("kto")
    given.means["mismatched"] = torch.tensor(-2.0, dtype=torch.float64)
    below = objective.losses(given.batch(objective), BETA)
    given.means["mismatched"] *= 0
    assert torch.equal(below, objective.losses(given.batch(objective), BETA))


def test_responses_need_no_partner() -> None:
    objective = load("kto")
    batch = tokens().batch(objective)
    found = objective.losses(Batch(batch.chosen[[1]], batch.rejected[:3], batch.means), BETA)
    whole = objective.losses(batch, BETA)
    assert torch.equal(found, whole[[1, 4, 5, 6]]) and objective.num_units(1, 3) == 4
