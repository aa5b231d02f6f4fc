from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.pairing.scoring import may_be, num_facts, num_wrong, value
from maskdpo_ray.pairing.strategies.protocol import Picks, strategy
from maskdpo_ray.records import CHOSEN, REJECTED, DropReason, ScoredAnswer


@strategy(unit="pair")
def best_worst(
    answers: Sequence[ScoredAnswer],
    rules: PairsConfig,
    next_best: bool = True,
    ties: Literal["first", "most_facts"] = "first",
) -> Picks:
    """Pick Mask-DPO's pair (section 2.2): the answer of highest score against that of lowest score.

    Args:
        next_best: when the best answer has fewer than `pairs.min_facts`, choose the best of those that have enough:
            otherwise one abstention among K answers would drop every question that the policy is unsure about, as the
            paper's filter does (False).
        ties: which of the answers of one score. `first`: the one sampled first. `most_facts`: for chosen the one with
            most `no_hallucination` spans, for rejected the one with most wrong ones, and the first of those.
    """
    if len({answer.rollout.text for answer in answers}) == 1:
        return DropReason.IDENTICAL_TEXT
    if len({answer.score for answer in answers}) == 1:
        return DropReason.SAME_SCORE

    def later(answer: ScoredAnswer, count: Callable[[ScoredAnswer], int]) -> tuple[int, int]:
        return (-count(answer) if ties == "most_facts" else 0), answer.rollout.sample

    rejectable = [answer for answer in answers if may_be(answer, REJECTED)]
    if not rejectable:
        return DropReason.TOO_FEW_ANSWERS
    rejected = min(rejectable, key=lambda answer: (value(answer), later(answer, num_wrong)))
    better = [answer for answer in answers if may_be(answer, CHOSEN) and value(answer) > value(rejected)]
    if next_best:
        better = [answer for answer in better if num_facts(answer) >= rules.min_facts]
        if not better:
            return DropReason.TOO_FEW_FACTS
    if not better:
        return DropReason.SAME_SCORE
    return [(min(better, key=lambda answer: (-value(answer), later(answer, num_facts))), rejected)]
