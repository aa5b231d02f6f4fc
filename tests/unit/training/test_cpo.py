"""CPO: closed forms of the paper's sum and of TRL's mean, and TRL's loss."""

from __future__ import annotations

import math

import pytest
from objective_batches import BETA, Slopes, Sums, agrees, sigmoid
from trl_losses import Logits, agree

from maskdpo_ray.training.objectives.protocol import load


@pytest.mark.parametrize("normalize", ["none", "tokens"])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_closed_form(normalize: str, share: float) -> None:
    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        margin = BETA * (chosen.policy - rejected.policy)
        count = chosen.tokens if normalize == "tokens" else 1.0
        loss, slope = math.log1p(math.exp(-margin)) - share * chosen.policy / count, -BETA * sigmoid(-margin)
        return loss, Slopes(policy=slope - share / count), Slopes(policy=-slope)

    agrees(load("cpo", {"nll_weight": share, "normalize": normalize}), pair)


@pytest.mark.parametrize("seed", range(3))
def test_normalized_by_tokens_it_is_trl_on_one_pair(seed: int) -> None:
    given = Logits(1, seed)
    assert agrees_with_trl(given, 0.5, {"nll_weight": 0.5, "normalize": "tokens"})


def test_the_preference_term_is_trl_on_many() -> None:
    assert agrees_with_trl(Logits(5), 0.0, {"nll_weight": 0})


def agrees_with_trl(given: Logits, alpha: float, options: dict[str, object]) -> bool:
    from trl.experimental.cpo import CPOTrainer

    attributes = {"beta": BETA, "loss_type": "sigmoid", "label_smoothing": 0.0, "alpha": 0.0, "cpo_alpha": alpha}
    theirs = given.loss(CPOTrainer, "cpo_loss", **attributes)
    agree(load("cpo", options).losses(given.batch(), BETA).mean(), theirs, given.logits)
    return True
