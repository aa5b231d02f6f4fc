"""IPO: closed forms of the paper's sum and of TRL's mean, and TRL's loss."""

from __future__ import annotations

import pytest
import torch
import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, tokens

from maskdpo_ray.training.objectives.protocol import load


@pytest.mark.parametrize("normalize", ["none", "tokens"])
def test_closed_form(normalize: str) -> None:
    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        own, other = (each.tokens if normalize == "tokens" else 1.0 for each in (chosen, rejected))
        off = chosen.ratio / own - rejected.ratio / other - 1 / (2 * BETA)
        return off**2, Slopes(ratio=2 * off / own), Slopes(ratio=-2 * off / other)

    agrees(load("ipo", {"normalize": normalize}), pair)


def test_normalized_by_tokens_it_is_trl() -> None:
    given, objective = tokens(ones=True), load("ipo", {"normalize": "tokens"})
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "ipo", BETA), given.policy)


def test_the_papers_sum_is_trl_where_each_response_has_one_token() -> None:
    given, objective = tokens(length=1, ones=True), load("ipo")
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "ipo", BETA), given.policy)
    longer = tokens(ones=True)
    other = objective.losses(longer.batch(objective), BETA).mean()
    assert not torch.isclose(other, trl_losses.dpo(longer, "ipo", BETA))
