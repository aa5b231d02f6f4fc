"""ORPO: closed form, and TRL's loss where a prompt has no token to learn."""

from __future__ import annotations

import math

import pytest
import torch
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid, tokens
from trl_losses import Logits, agree

from maskdpo_ray.training.objectives.protocol import load


def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
    own, other = (math.exp(each.policy / each.tokens) for each in (chosen, rejected))
    log_odds = math.log(own / (1 - own)) - math.log(other / (1 - other))
    loss = -math.log(own) + BETA * math.log1p(math.exp(-log_odds))
    slope = -BETA * sigmoid(-log_odds)  # d log(p / (1 - p)) / d log p = 1 / (1 - p)
    return (
        loss,
        Slopes(policy=(slope / (1 - own) - 1) / chosen.tokens),
        Slopes(policy=-slope / (1 - other) / rejected.tokens),
    )


def test_closed_form() -> None:
    agrees(load("orpo"), pair)


@pytest.mark.parametrize("seed", range(3))
def test_trl(seed: int) -> None:
    """On one pair: TRL's L_SFT is the mean over all tokens of a micro-batch."""
    given = Logits(1, seed)
    agree(load("orpo").losses(given.batch(), BETA).mean(), theirs(given), given.logits)


def test_trl_learns_the_prompt_too() -> None:
    given = Logits(1, prompt=3)
    ours, other = load("orpo").losses(given.batch(), BETA).mean(), theirs(given)
    assert not torch.isclose(ours, other.double())
    logps = given.logits.log_softmax(-1)[:1, :-1].gather(2, given.ids[:1, 1:, None])[..., 0]
    mask = torch.cat([torch.ones(1, 3), given.weights[:1]], -1)
    of_both, of_response = -(logps * mask).sum() / mask.sum(), -given.batch().chosen.averages[0]
    torch.testing.assert_close(ours - of_response, other.double() - of_both, atol=1e-6, rtol=0)


def test_odds_of_a_certain_response_are_finite() -> None:
    given, objective = tokens(), load("orpo")
    given.policy.data[:] = 0
    losses = objective.losses(given.batch(objective), BETA)
    assert losses.tolist() == pytest.approx([BETA * math.log(2)] * 4)
    given.policy.data[:] = -1000
    assert objective.losses(given.batch(objective), BETA).tolist() == pytest.approx([1000 + BETA * math.log(2)] * 4)


def theirs(given: Logits) -> torch.Tensor:
    from trl.experimental.orpo import ORPOTrainer

    return given.loss(ORPOTrainer, "odds_ratio_loss", beta=BETA)
