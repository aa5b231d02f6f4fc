from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.errors import require
from maskdpo_ray.pairing.scoring import value
from maskdpo_ray.pairing.strategies.protocol import Picks, strategy
from maskdpo_ray.records import DropReason, ScoredAnswer


@strategy(unit="pair")
def correct_incorrect(
    answers: Sequence[ScoredAnswer], rules: PairsConfig, correct: float = 1.0, incorrect: float = 0.0
) -> Picks:
    """Pick each correct answer with each incorrect one (SMA section 3.2); `pairs.max_pairs` is the paper's m.

    Answers between are unsure and in no pair, nor are those without a score.

    Args:
        correct: lowest score of a correct answer.
        incorrect: highest score of an incorrect one.
    """
    require(incorrect < correct, "pairs.options: incorrect", f"a number below correct ({correct})", incorrect)
    right = [answer for answer in answers if value(answer) >= correct]
    wrong = [answer for answer in answers if value(answer) <= incorrect]
    if not right:
        return DropReason.NONE_CORRECT
    return list(product(right, wrong)) or DropReason.NONE_INCORRECT
