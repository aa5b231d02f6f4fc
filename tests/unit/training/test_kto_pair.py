"""KTO on pairs: closed form. TRL dropped this loss; its means were over a micro-batch."""

from __future__ import annotations

import torch
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens

from maskdpo_ray.training.objectives.protocol import load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    """The batch's mean log-ratios are .7 of the chosen, and below 0, that is 0, of the rejected responses."""
    own, other = BETA * chosen.ratio, BETA * (0.7 - rejected.ratio)
    of_own, of_other = -BETA * sigmoid(own) * sigmoid(-own), BETA * sigmoid(other) * sigmoid(-other)
    return sigmoid(-own) + sigmoid(-other), Slopes(ratio=of_own), Slopes(ratio=of_other)


def test_closed_form() -> None:
    agrees(load("kto_pair"), pair)


def test_it_is_kto_where_both_means_are_its_estimate() -> None:
    given = tokens()
    given.means = dict.fromkeys(("chosen", "rejected", "mismatched"), torch.tensor(0.4, dtype=torch.float64))
    paired, single = load("kto_pair"), load("kto")
    assert torch.equal(paired.losses(given.batch(paired), BETA), single.losses(given.batch(single), BETA))
