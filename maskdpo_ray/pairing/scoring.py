from __future__ import annotations

from collections.abc import Sequence

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.records import (
    CORRECT,
    INCORRECT,
    NO_HALLUCINATION,
    UNPARSED,
    Annotation,
    DropReason,
    PreferencePair,
    Rollout,
    ScoredAnswer,
)

DEFAULTS = PairsConfig()


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


def unfit(chosen: ScoredAnswer, rejected: ScoredAnswer, options: PairsConfig = DEFAULTS) -> DropReason | None:
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


def num_wrong(answer: ScoredAnswer) -> int:
    return sum(sentence.label in INCORRECT for sentence in answer.annotation.sentences)


def _has(answer: ScoredAnswer | None, labels: frozenset[str]) -> bool:
    return answer is not None and any(sentence.label in labels for sentence in answer.annotation.sentences)
