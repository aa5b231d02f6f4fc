"""From the K scored answers to a question: one preference pair, or the reason why there is none.

A strategy maps (question, prompt ids, answers, the config's `pairs`) to a `PreferencePair` or a
`DropReason`; others than the paper's go into `STRATEGIES` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.records import (
    CORRECT,
    INCORRECT,
    NO_HALLUCINATION,
    UNPARSED,
    Annotation,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
)


class DropReason(StrEnum):
    """Why a question gives no pair. The values are the names in ledgers, metrics and summaries."""

    TOO_FEW_ANSWERS = "too_few_answers"
    """Fewer than two answers were sampled."""
    TRUNCATED = "truncated"
    """Fewer than two answers ended before the length limit."""
    UNPARSED = "unparsed"
    """Fewer than two of these have a sentence that the annotator's output could be read for."""
    IDENTICAL_TEXT = "identical_text"
    SAME_SCORE = "same_score"
    TOO_FEW_FACTS = "too_few_facts"
    """The best answer states fewer correct facts than `pairs.min_facts`; with `pairs.next_best` so do all answers
    better than the worst."""
    CHOSEN_WITHOUT_CORRECT = "chosen_without_correct"
    REJECTED_WITHOUT_INCORRECT = "rejected_without_incorrect"
    NOTHING_TO_LEARN = "nothing_to_learn"
    """The mask policy leaves a side without a weighted token; known only once tokens are weighed."""
    NOT_LOCATED = "not_located"
    """An answer's ids don't spell its text, or a sentence lies outside it; known as late."""
    FAILED = "failed"
    """The actors that were to answer or label it failed, again and again: it has no answers."""


Strategy = Callable[[Question, Sequence[int], Sequence[ScoredAnswer], PairsConfig], PreferencePair | DropReason]
_DEFAULTS = PairsConfig()


def score(annotation: Annotation) -> float | None:
    """Correct sentences / parsed sentences (Mask-DPO section 2.2), 0 to 1; None when none was parsed."""
    labels = [sentence.label for sentence in annotation.sentences if sentence.label != UNPARSED]
    return sum(label in CORRECT for label in labels) / len(labels) if labels else None


def scored(rollout: Rollout, annotation: Annotation) -> ScoredAnswer:
    """Join an answer with its labels. Raises ValueError when they are of different answers."""
    if (rollout.question_id, rollout.sample) != (annotation.question_id, annotation.sample):
        raise ValueError(
            f"annotation of {annotation.question_id!r} sample {annotation.sample}, "
            f"expected {rollout.question_id!r} sample {rollout.sample}"
        )
    return ScoredAnswer(rollout, annotation, score(annotation))


def unfit(chosen: ScoredAnswer, rejected: ScoredAnswer, options: PairsConfig = _DEFAULTS) -> DropReason | None:
    """The paper's filters (section 2.2), for any strategy; None when the two make a pair."""
    if chosen.rollout.text == rejected.rollout.text:
        return DropReason.IDENTICAL_TEXT
    if chosen.score == rejected.score:
        return DropReason.SAME_SCORE
    if not _has(chosen, CORRECT):
        return DropReason.CHOSEN_WITHOUT_CORRECT
    if num_facts(chosen) < options.min_facts:
        return DropReason.TOO_FEW_FACTS
    if not _has(rejected, INCORRECT):
        return DropReason.REJECTED_WITHOUT_INCORRECT
    return None


def best_worst(
    question: Question,
    prompt_token_ids: Sequence[int],
    answers: Sequence[ScoredAnswer],
    options: PairsConfig = _DEFAULTS,
) -> PreferencePair | DropReason:
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
        return DropReason.TOO_FEW_ANSWERS
    complete = [answer for answer in answers if options.cut_off == "keep" or answer.rollout.finish_reason != "length"]
    if len(complete) < 2:
        return DropReason.TRUNCATED
    candidates = [(answer.score, answer) for answer in complete if answer.score is not None]
    if len(candidates) < 2:
        return DropReason.UNPARSED
    # With all scores equal both picks below are one answer, which `unfit` would call identical text in any case:
    # so identical texts and equal scores are told apart before it.
    if len({answer.rollout.text for _, answer in candidates}) == 1:
        return DropReason.IDENTICAL_TEXT
    if len({score for score, _ in candidates}) == 1:
        return DropReason.SAME_SCORE

    def later(answer: ScoredAnswer, count: Callable[[ScoredAnswer], int]) -> tuple[int, int]:
        return (-count(answer) if options.ties == "most_facts" else 0), answer.rollout.sample

    lowest, rejected = min(candidates, key=lambda item: (item[0], later(item[1], _num_wrong)))
    better = [item for item in candidates if item[0] > lowest]
    if options.next_best:
        better = [item for item in better if num_facts(item[1]) >= options.min_facts]
        if not better:
            return DropReason.TOO_FEW_FACTS
    _, chosen = min(better, key=lambda item: (-item[0], later(item[1], num_facts)))
    reason = unfit(chosen, rejected, options)
    if reason is not None:
        return reason
    return PreferencePair(
        question_id=question.id,
        topic=question.topic,
        prompt_token_ids=tuple(prompt_token_ids),
        chosen=chosen,
        rejected=rejected,
        policy_version=chosen.rollout.policy_version,
    )


@dataclass(frozen=True)
class PairsSummary:
    """What an iteration's questions gave: pairs-summary.json."""

    questions: int
    pairs: int
    drops: dict[str, int]
    """Reason -> questions without a pair; of a pairs file, records that were dropped."""
    mixture: dict[str, float]
    """What `mixture` gives."""
    failed_example: str | None = None
    """The error of a question that failed, if one did."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> the error of the first record of a pairs file that was dropped for it."""


STRATEGIES: dict[str, Strategy] = {"best_worst": best_worst}
"""Values of the option `pairs.strategy`."""


def mixture(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """How much masking has to do: 0 and 0 mean that Mask-DPO on these pairs is plain DPO.

    Returns:
        The share of pairs whose chosen answer holds an incorrect sentence and the share of those
        whose rejected answer holds a correct one, 0 to 1 (0 when there are no pairs).
    """
    count = max(len(pairs), 1)
    return {
        "chosen_with_incorrect": sum(_has(pair.chosen, INCORRECT) for pair in pairs) / count,
        "rejected_with_correct": sum(_has(pair.rejected, CORRECT) for pair in pairs) / count,
    }


def num_facts(answer: ScoredAnswer) -> int:
    """Number of sentences that state a correct fact: `no_hallucination`."""
    return sum(sentence.label == NO_HALLUCINATION for sentence in answer.annotation.sentences)


def _num_wrong(answer: ScoredAnswer) -> int:
    return sum(sentence.label in INCORRECT for sentence in answer.annotation.sentences)


def _has(answer: ScoredAnswer, labels: frozenset[str]) -> bool:
    return any(sentence.label in labels for sentence in answer.annotation.sentences)
