"""Annotated answers -> preference pairs, or the reason why a question gives none (Mask-DPO section 2.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Protocol

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


class DropReason(str, Enum):
    """Why a question gave no pair."""

    SAME_SCORE = "same_score"
    """All candidates score the same, between 0 and 1."""
    IDENTICAL_TEXT = "identical_text"
    """Chosen and rejected read the same."""
    CHOSEN_WITHOUT_CORRECT = "chosen_without_correct"
    """Even the best candidate holds no correct sentence."""
    REJECTED_WITHOUT_INCORRECT = "rejected_without_incorrect"
    """Even the worst candidate holds no incorrect sentence."""
    TRUNCATED = "truncated"
    """Fewer than two candidates left, mostly because answers were cut off at the length limit."""
    NOTHING_TO_LEARN = "nothing_to_learn"
    """One side has no token of positive weight under the mask policy (found when weights are computed)."""
    UNPARSED = "unparsed"
    """Fewer than two candidates left, mostly because no sentence of the answers was parsed."""
    TOO_FEW_ANSWERS = "too_few_answers"
    """Fewer than two answers were sampled."""


class PairStrategy(Protocol):
    """Makes a pair from one question's answers. The result must not depend on their order."""

    def __call__(
        self, question: Question, prompt_token_ids: Sequence[int], answers: Sequence[ScoredAnswer]
    ) -> PreferencePair | DropReason: ...


def score(annotation: Annotation) -> float | None:
    """Factuality score, 0 to 1: correct / parsed sentences (section 2.2); None when none was parsed."""
    num_parsed = sum(sentence.label != UNPARSED for sentence in annotation.sentences)
    return _count(annotation, CORRECT) / num_parsed if num_parsed else None


def scored(rollout: Rollout, annotation: Annotation) -> ScoredAnswer:
    """An answer with its labels and score.

    Raises ValueError when the annotation is of another answer.
    """
    if (rollout.question_id, rollout.sample) != (annotation.question_id, annotation.sample):
        raise ValueError(
            f"expected the annotation of answer {rollout.sample} to {rollout.question_id!r}, "
            f"got that of answer {annotation.sample} to {annotation.question_id!r}"
        )
    return ScoredAnswer(rollout, annotation, score(annotation))


def best_worst(
    question: Question, prompt_token_ids: Sequence[int], answers: Sequence[ScoredAnswer]
) -> PreferencePair | DropReason:
    """The paper's pair: the answer with the highest score is chosen, the one with the lowest rejected.

    Answers cut off at the length limit and answers without a parsed sentence are no candidates. When
    fewer than two candidates remain, the reason is the one that removed more answers (`truncated` when
    both removed as many; an answer of both kinds counts as truncated).

    Equal scores: chosen is the answer with more correct facts, rejected the one with more incorrect
    sentences, so that there is more to learn from; then the lower sample index. The order of `answers`
    makes no difference.

    When all scores are equal, the reason says what kind of equal: all texts the same, nothing correct,
    nothing incorrect, or else `same_score`.
    """
    if len(answers) < 2:
        return DropReason.TOO_FEW_ANSWERS
    removed: Counter[DropReason] = Counter()
    candidates: list[tuple[float, ScoredAnswer]] = []
    for answer in answers:
        if answer.rollout.finish_reason == "length":
            removed[DropReason.TRUNCATED] += 1
        elif answer.score is None:
            removed[DropReason.UNPARSED] += 1
        else:
            candidates.append((answer.score, answer))
    if len(candidates) < 2:
        return max((DropReason.TRUNCATED, DropReason.UNPARSED), key=lambda reason: removed[reason])
    _, chosen = min(
        candidates, key=lambda c: (-c[0], -_count(c[1].annotation, {NO_HALLUCINATION}), c[1].rollout.sample)
    )
    _, rejected = min(
        candidates, key=lambda c: (c[0], -_count(c[1].annotation, INCORRECT), c[1].rollout.sample)
    )
    reason = _filter(chosen, rejected, {answer.rollout.text for _, answer in candidates})
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


def _filter(chosen: ScoredAnswer, rejected: ScoredAnswer, texts: set[str]) -> DropReason | None:
    """Section 2.2's filters; `texts` are those of all candidates."""
    same_score = chosen.score == rejected.score
    # With equal scores both may be one answer: then the texts of all candidates say more.
    if len(texts) == 1 or (not same_score and chosen.rollout.text == rejected.rollout.text):
        return DropReason.IDENTICAL_TEXT
    if not _count(chosen.annotation, CORRECT):
        return DropReason.CHOSEN_WITHOUT_CORRECT
    if not _count(rejected.annotation, INCORRECT):
        return DropReason.REJECTED_WITHOUT_INCORRECT
    # Last, as equal scores of 0 and of 1 are the two cases above and say more.
    if same_score:
        return DropReason.SAME_SCORE
    return None


STRATEGIES: dict[str, PairStrategy] = {"best_worst": best_worst}
"""By the name that `pairs.strategy` gives."""


def mixture(pairs: Iterable[PreferencePair]) -> dict[str, float]:
    """What masking has to work on, as shares of the pairs, 0 to 1.

    `chosen_with_incorrect`: pairs whose chosen answer holds an incorrect sentence;
    `rejected_with_correct`: pairs whose rejected answer holds a correct one. At 0 for both, Mask-DPO is
    plain DPO. Empty when there are no pairs: a share of nothing is no number.
    """
    pairs = list(pairs)
    if not pairs:
        return {}
    with_incorrect = sum(_count(pair.chosen.annotation, INCORRECT) > 0 for pair in pairs)
    with_correct = sum(_count(pair.rejected.annotation, CORRECT) > 0 for pair in pairs)
    return {
        "chosen_with_incorrect": with_incorrect / len(pairs),
        "rejected_with_correct": with_correct / len(pairs),
    }


def _count(annotation: Annotation, labels: Iterable[str]) -> int:
    """Sentences of the annotation whose label is one of `labels`."""
    return sum(sentence.label in labels for sentence in annotation.sentences)
