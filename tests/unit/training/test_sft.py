"""Supervised fine-tuning: closed form, and TRL's loss."""

from __future__ import annotations

import pytest
import torch
import trl_losses
from objective_batches import BETA, Slopes, Sums, agrees, tokens

from maskdpo_ray.training.objectives.protocol import Batch, load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    return -chosen.policy / chosen.tokens, Slopes(policy=-1 / chosen.tokens), Slopes()


def test_closed_form() -> None:
    agrees(load("sft"), pair)


@pytest.mark.parametrize("seed", range(3))
def test_trl(seed: int) -> None:
    """On one response: TRL's mean is over all tokens of a micro-batch."""
    given, objective = tokens(num_pairs=1, ones=True, seed=seed), load("sft")
    ours = objective.losses(given.batch(objective), BETA).mean()
    trl_losses.agree(ours, trl_losses.dpo(given, "sft", BETA), given.policy)


def test_rejected_responses_are_not_needed() -> None:
    objective = load("sft")
    batch = tokens().batch(objective)
    found = objective.losses(Batch(batch.chosen, batch.rejected[:0]), BETA)
    assert torch.equal(found, objective.losses(batch, BETA)) and objective.num_units(4, 0) == objective.num_units(4, 4)
