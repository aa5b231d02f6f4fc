"""Scores of labelled answers, 0 to 1: what `pairs.score` names, each a small function of an answer's labels.

A span without a readable label (`unparsed`) counts in no score, and an answer without any other span has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

from maskdpo_ray.config.plugins import FunctionSlot, faults
from maskdpo_ray.config.schema import PairsConfig, Rule, above_0, at_least
from maskdpo_ray.errors import require
from maskdpo_ray.records import (
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    NO_HALLUCINATION,
    UNPARSED,
    Annotation,
    PreferencePair,
    Rollout,
    ScoredAnswer,
)

Score = Callable[[Annotation], float | None]
"""Score of an answer by its labels; None when they don't tell."""


def precision(annotation: Annotation) -> float | None:
    """Correct / parsed spans, `no_fact` among the correct ones (Mask-DPO section 2.2)."""
    labels = _parsed(annotation)
    return sum(label in CORRECT for label in labels) / len(labels) if labels else None


def detail(annotation: Annotation, half: Annotated[float, above_0()] = 5) -> float | None:
    """`precision` times c / (c + half), where c is the number of correct facts (`no_hallucination`).

    An answer that states nothing scores 0, and one more correct fact always gains, but less than the one before it:
    concave, as rewards of detail are (Chen et al. 2025, arXiv 2508.05618, rewards precision and detail against short
    answers). Unlike a logarithm it has a bound, so that scores stay comparable with a threshold or a `pairs.min_gap`.

    Args:
        half: number of correct facts that gives half of the detail's factor.
    """
    share, count = precision(annotation), _count(annotation, NO_HALLUCINATION)
    return None if share is None else share * count / (count + half)


def f1_at_k(annotation: Annotation, k: Annotated[int, at_least(1)]) -> float | None:
    """F1@K: harmonic mean of the share of stated facts that are right and of right facts / k, at most 1.

    Wei et al. 2024 (arXiv 2403.18802, section 5): Prec = S / (S + N), R_K = min(S / K, 1), and 0 where S = 0. S are
    `no_hallucination` spans, N `contradictory` and `unverifiable` ones; `no_fact` counts as neither.

    Args:
        k: number of right facts that a reader wants; the paper takes the median (64) and the most (178) of its models.
    """
    labels = _parsed(annotation)
    if not labels:
        return None
    supported, unsupported = labels.count(NO_HALLUCINATION), sum(label in INCORRECT for label in labels)
    if not supported:
        return 0.0
    right, recall = supported / (supported + unsupported), min(supported / k, 1)
    return 2 * right * recall / (right + recall)


def contradiction_free(annotation: Annotation, min_facts: Annotated[int, at_least(0)] = 1) -> float | None:
    """1 when nothing is contradicted and enough is stated, else 0.

    Binary retrieval-augmented reward (Chen et al. 2025, arXiv 2510.17733): 1 if the answer has no contradiction with
    the evidence. What the evidence doesn't tell (`unverifiable`) is none.

    Args:
        min_facts: fewest correct facts of an answer that scores 1: else one that says nothing does.
    """
    labels = _parsed(annotation)
    if not labels:
        return None
    return float(CONTRADICTORY not in labels and labels.count(NO_HALLUCINATION) >= min_facts)


def short_answer(
    annotation: Annotation,
    abstention: Annotated[float | None, Rule("0 to below 1", lambda value: 0 <= value < 1)] = None,
) -> float | None:
    """A short answer as a whole: 1 correct, 0 incorrect, None when the verifier is unsure (SMA section 3.2).

    Correct is an answer that states something right and nothing wrong. One with an `unparsed` span is unsure.

    Args:
        abstention: score of an answer that states nothing. None: as an unsure one, no pair holds it. Between 0 and 1
            a correct answer is better than an abstention and that better than a wrong one, as in TruthRL's ternary
            reward of 1, 0 and -1 (arXiv 2509.25760); 0: as bad as a wrong one.
    """
    labels = {span.label for span in annotation.sentences}
    if not labels or UNPARSED in labels:
        return None
    if labels & INCORRECT:
        return 0.0
    return 1.0 if NO_HALLUCINATION in labels else abstention


SCORES = tuple(score.__name__ for score in (precision, detail, f1_at_k, contradiction_free, short_answer))
"""Names that `pairs.score` knows."""
_SLOT = FunctionSlot("pairs.score", "pairs.score_options", {name: (__name__, name) for name in SCORES}, ("annotation",))


def build(rules: PairsConfig) -> Score:
    """The score that `pairs.score` names, with `pairs.score_options`: one of `SCORES`, or a function of the user's.

    Raises ConfigError for what can't be found, and for options that the score does not take.
    """
    function = _SLOT.find(rules.score)
    return partial(function, **_SLOT.check_options(function, rules.score_options))


def scored(rollout: Rollout, annotation: Annotation, score: Score = precision) -> ScoredAnswer:
    """Join an answer with its labels.

    Raises ValueError when they are of different answers, ConfigError when the user's score gives no number from 0 to 1.
    """
    if (rollout.question_id, rollout.sample) != (annotation.question_id, annotation.sample):
        raise ValueError(
            f"annotation of {annotation.question_id!r} sample {annotation.sample}, "
            f"expected {rollout.question_id!r} sample {rollout.sample}"
        )
    with faults("pairs.score"):
        found = score(annotation)
    is_score = found is None or (isinstance(found, int | float) and 0 <= found <= 1)
    require(is_score, "pairs.score", "a function that returns 0 to 1, or None", found)
    return ScoredAnswer(rollout, annotation, None if found is None else float(found))


def mixture(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """How much masking has to do: 0 and 0 mean that Mask-DPO on these pairs is plain DPO.

    Returns:
        The share of pairs whose chosen answer holds an incorrect sentence and the share of those
        whose rejected answer holds a correct one, 0 to 1 (0 when there are no pairs).
    """
    count = max(len(pairs), 1)
    return {
        "chosen_with_incorrect": sum(has(pair.chosen, INCORRECT) for pair in pairs) / count,
        "rejected_with_correct": sum(has(pair.rejected, CORRECT) for pair in pairs) / count,
    }


def value(answer: ScoredAnswer) -> float:
    """Score of an answer that has one. Raises ValueError when it has none."""
    if answer.score is None:
        raise ValueError(f"answer {answer.rollout.sample} to {answer.rollout.question_id!r} has no score")
    return answer.score


def may_be(answer: ScoredAnswer, role: str) -> bool:
    """Whether an answer may have this role in a pair: see `rollout.chosen_answers`."""
    return answer.rollout.role in (None, role)


def num_facts(answer: ScoredAnswer) -> int:
    """Number of spans that state a correct fact: `no_hallucination`."""
    return _count(answer.annotation, NO_HALLUCINATION)


def num_wrong(answer: ScoredAnswer) -> int:
    """Number of incorrect spans."""
    return sum(span.label in INCORRECT for span in answer.annotation.sentences)


def kinds(answer: ScoredAnswer) -> frozenset[str]:
    """Kinds of the facts that it states, right or wrong, as far as the annotator names them."""
    stated = (span for span in answer.annotation.sentences if span.label in INCORRECT or span.label == NO_HALLUCINATION)
    return frozenset(span.kind for span in stated if span.kind is not None)


def has(answer: ScoredAnswer | None, labels: frozenset[str]) -> bool:
    """Whether there is an answer, and a span of it has one of these labels."""
    return answer is not None and any(span.label in labels for span in answer.annotation.sentences)


def _parsed(annotation: Annotation) -> list[str]:
    return [span.label for span in annotation.sentences if span.label != UNPARSED]


def _count(annotation: Annotation, label: str) -> int:
    return sum(span.label == label for span in annotation.sentences)
