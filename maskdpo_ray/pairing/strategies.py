from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.pairing.scoring import DEFAULTS, num_facts, num_wrong, unfit
from maskdpo_ray.records import DropReason, PreferencePair, Question, ScoredAnswer


@dataclass(frozen=True)
class Pairing:
    """What a strategy makes of one question's answers."""

    pairs: tuple[PreferencePair, ...] = ()
    drops: tuple[DropReason, ...] = ()
    """Why there is no pair, or why answers or pairs were left out, once for each."""


Strategy = Callable[[Question, Sequence[int], Sequence[ScoredAnswer], PairsConfig], Pairing]


def best_worst(
    question: Question,
    prompt_token_ids: Sequence[int],
    answers: Sequence[ScoredAnswer],
    options: PairsConfig = DEFAULTS,
) -> Pairing:
    """Mask-DPO's pair: the answer of highest score against that of lowest score.

    Excluded are answers without a parsed sentence, those cut off at the length limit (`pairs.cut_off`), and
    as chosen those that state too little (`pairs.min_facts`): otherwise one abstention among K answers would
    drop every question that the policy is unsure about, as the paper's filter does
    (`pairs.next_best: false`). `pairs.ties` and finally the sample's index break ties, so the order of
    `answers` does not matter. The result is one pair, or the reason to drop the question.

    Raises ValueError when an answer belongs to another question or the answers come from several policies.
    """
    for answer in answers:
        if answer.rollout.question_id != question.id:
            raise ValueError(f"answer to {answer.rollout.question_id!r}, expected {question.id!r}")
    versions = {answer.rollout.policy_version for answer in answers}
    if len(versions) > 1:
        raise ValueError(f"answers to {question.id!r}: expected one policy version, got {sorted(versions)}")

    if len(answers) < 2:
        return Pairing(drops=(DropReason.TOO_FEW_ANSWERS,))
    complete = [answer for answer in answers if options.cut_off == "keep" or answer.rollout.finish_reason != "length"]
    if len(complete) < 2:
        return Pairing(drops=(DropReason.TRUNCATED,))
    candidates = [(answer.score, answer) for answer in complete if answer.score is not None]
    if len(candidates) < 2:
        return Pairing(drops=(DropReason.UNPARSED,))
    # With all scores equal both picks below are one answer, which `unfit` would call identical text in any case:
    # so identical texts and equal scores are told apart before it.
    if len({answer.rollout.text for _, answer in candidates}) == 1:
        return Pairing(drops=(DropReason.IDENTICAL_TEXT,))
    if len({score for score, _ in candidates}) == 1:
        return Pairing(drops=(DropReason.SAME_SCORE,))

    def later(answer: ScoredAnswer, count: Callable[[ScoredAnswer], int]) -> tuple[int, int]:
        return (-count(answer) if options.ties == "most_facts" else 0), answer.rollout.sample

    lowest, rejected = min(candidates, key=lambda item: (item[0], later(item[1], num_wrong)))
    better = [item for item in candidates if item[0] > lowest]
    if options.next_best:
        better = [item for item in better if num_facts(item[1]) >= options.min_facts]
        if not better:
            return Pairing(drops=(DropReason.TOO_FEW_FACTS,))
    _, chosen = min(better, key=lambda item: (-item[0], later(item[1], num_facts)))
    reason = unfit(chosen, rejected, options)
    if reason is not None:
        return Pairing(drops=(reason,))
    version = chosen.rollout.policy_version
    pair = PreferencePair(question.id, question.topic, tuple(prompt_token_ids), chosen, rejected, version)
    return Pairing((pair,))


STRATEGIES: dict[str, Strategy] = {"best_worst": best_worst}
"""Values of the option `pairs.strategy`."""
