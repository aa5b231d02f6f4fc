"""Factuality of annotated answers, and how much it changed: Mask-DPO sections 2.2 and 3.1, appendix A.

Best of N: how well an answer does that is the best of N, as a selector with the same score would pick it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import comb
from typing import Any

from maskdpo_ray.errors import shown
from maskdpo_ray.evaluation.intervals import Gain, Ratios, Statistic, TopicSums
from maskdpo_ray.models.thinking import own_ids
from maskdpo_ray.records import (
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    LABELS,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Annotation,
    Question,
    Rollout,
    from_json,
)

METRICS: dict[str, tuple[str, str]] = {
    "score": ("score", "scored"),
    "pooled_score": ("correct", "facts"),
    "correct_facts": ("correct", "answers"),
    "incorrect_facts": ("incorrect", "answers"),
    "contradictory": ("contradictory", "answers"),
    "unverifiable": ("unverifiable", "answers"),
    "no_fact": ("no_fact", "answers"),
    "unparsed": ("unparsed", "answers"),
    "sentences": ("sentences", "answers"),
    "tokens": ("tokens", "answers"),
    "thinking": ("thinking", "answers"),
    "distinct_1": ("distinct_1", "tokens"),
    "distinct_2": ("distinct_2", "token_pairs"),
    "cut_off": ("cut_off", "answers"),
    "nothing_checkable": ("nothing_checkable", "answers"),
    "scored": ("scored", "answers"),
}
"""Metric -> (numerator, denominator), names of sums over answers.

score: mean over answers of correct / parsed sentences, no_fact among the correct (paper 2.2);
pooled_score: correct facts / (correct + incorrect facts) over all answers (paper Table 1);
correct_facts: no_hallucination sentences per answer; incorrect_facts: contradictory and unverifiable
ones; tokens: length of the answer without thinking; thinking: its length; distinct_1, distinct_2: distinct tokens /
tokens, distinct bigrams / bigrams, within answers (after Li et al. 2016, arXiv:1510.03055): they fall when a policy
repeats itself; cut_off: share that met the length limit; nothing_checkable: share without a sentence other
than no_fact; scored: share with a parsed sentence, the others being no part of `score`.
"""
_SUMS = (
    "answers",
    "scored",
    "score",
    "facts",
    "correct",
    "incorrect",
    "contradictory",
    "unverifiable",
    "no_fact",
    "unparsed",
    "sentences",
    "tokens",
    "thinking",
    "distinct_1",
    "distinct_2",
    "token_pairs",
    "cut_off",
    "nothing_checkable",
)
RATIOS = Ratios(_SUMS, METRICS)
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class KindOfFact:
    """Facts of one kind ("capital") per answer, mean over replications."""

    correct: float
    incorrect: float


@dataclass(frozen=True)
class Evaluation:
    """Statistics of one policy on one set of questions."""

    questions: int
    replications: int
    metrics: dict[str, Statistic]
    """By the names of `METRICS`."""
    kinds: dict[str, KindOfFact]
    """By `Sentence.kind`; sentences without a kind are under "other". no_fact and unparsed are in none."""
    topic_scores: dict[str, float | None]
    """Topic -> mean score over its answers."""
    topic_sums: TopicSums
    """What `compare` resamples."""
    best_of: dict[str, float | None]
    """N -> mean over questions of the expected best score of N answers; None where no question has N scores."""
    unparsed_example: str | None = None
    """A sentence whose label could not be read, and why, if there is one."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Topics of which a question failed, and which count nowhere -> the error."""

    def __post_init__(self) -> None:
        """Raises ValueError when a metric or a sum is missing: in a file of another version, say."""
        RATIOS.check(self.metrics, self.topic_sums, self.replications)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Evaluation:
        """The opposite of `to_json`. Raises ValueError naming the field."""
        return from_json(Evaluation, value)


def evaluate(
    questions: Sequence[Question],
    answers: Iterable[tuple[Rollout, Annotation]],
    *,
    left_out: Mapping[str, str] = _NONE,
    seed: int,
    bootstrap_samples: int,
) -> Evaluation:
    """Statistics of `answers` to `questions`, in any order, `Rollout.sample` being the replication.

    `left_out`: see `Evaluation`; its questions and answers are not among these.
    Raises ValueError when a question is not answered exactly once per replication, an answer is to
    an unknown question, or an annotation is of another answer.
    """
    kinds: dict[str, list[int]] = {}
    scores: dict[str, list[float]] = {}
    example: list[str] = []

    def counts() -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
        for rollout, annotation in answers:
            key = (rollout.question_id, rollout.sample)
            if key != (annotation.question_id, annotation.sample):
                other = (annotation.question_id, annotation.sample)
                raise ValueError(f"answer {key} comes with the annotation of {other}")
            row = _count(rollout, annotation)
            for sentence in annotation.sentences:
                if sentence.label == UNPARSED and not example:
                    example.append(f"{shown(rollout.text[sentence.start : sentence.end])} ({sentence.evidence})")
                if sentence.label in INCORRECT or sentence.label == NO_HALLUCINATION:
                    kinds.setdefault(sentence.kind or "other", [0, 0])[sentence.label in INCORRECT] += 1
            if row["scored"]:
                scores.setdefault(rollout.question_id, []).append(row["score"])
            yield key, row

    sums = RATIOS.add_up(questions, counts())
    metrics = RATIOS.statistics(sums, seed=seed, bootstrap_samples=bootstrap_samples)
    replications = len(metrics["score"].per_replication)
    num_answers = len(questions) * replications
    return Evaluation(
        questions=len(questions),
        replications=replications,
        metrics=metrics,
        kinds={
            kind: KindOfFact(right / num_answers, wrong / num_answers) for kind, (right, wrong) in sorted(kinds.items())
        },
        topic_scores={
            topic: sum(mine["score"]) / sum(mine["scored"]) if any(mine["scored"]) else None
            for topic, mine in sums.items()
        },
        topic_sums=sums,
        best_of=mean_best([scores[q.id] for q in questions if q.id in scores], replications),
        unparsed_example=example[0] if example else None,
        left_out=dict(left_out),
    )


def compare(before: Evaluation, after: Evaluation, *, seed: int, bootstrap_samples: int) -> Gain:
    """Gain of `after` over `before`, paired bootstrap over topics. Raises ValueError when they are of other topics."""
    return RATIOS.compare(before, after, seed=seed, bootstrap_samples=bootstrap_samples)


def _count(rollout: Rollout, annotation: Annotation) -> dict[str, float]:
    labels, token_ids = [sentence.label for sentence in annotation.sentences], own_ids(rollout)
    unknown = set(labels).difference(LABELS)
    if unknown:
        raise ValueError(
            f"question {rollout.question_id!r}: label {sorted(unknown)[0]!r} is none of {', '.join(LABELS)}"
        )
    parsed = [label for label in labels if label != UNPARSED]
    correct, incorrect = labels.count(NO_HALLUCINATION), sum(label in INCORRECT for label in labels)
    return {
        "answers": 1,
        "scored": bool(parsed),
        "score": sum(label in CORRECT for label in parsed) / len(parsed) if parsed else 0.0,
        "facts": correct + incorrect,
        "correct": correct,
        "incorrect": incorrect,
        "contradictory": labels.count(CONTRADICTORY),
        "unverifiable": labels.count(UNVERIFIABLE),
        "no_fact": labels.count(NO_FACT),
        "unparsed": labels.count(UNPARSED),
        "sentences": len(labels),
        "tokens": len(token_ids),
        "thinking": len(rollout.token_ids) - len(token_ids),
        "distinct_1": len(set(token_ids)),
        "distinct_2": len(set(pairwise(token_ids))),
        "token_pairs": max(0, len(token_ids) - 1),
        "cut_off": rollout.finish_reason == "length",
        "nothing_checkable": all(label == NO_FACT for label in labels),
    }


def best_of_n(scores: Sequence[float], n: int) -> float:
    """The expected highest of `n` scores, estimated without bias from K >= n independent ones.

    It is the mean, over all subsets of n of the K scores, of the highest one. In ascending order the i-th score is the
    highest of C(i - 1, n - 1) subsets out of C(K, n). For scores of 0 and 1 this is pass@k (Chen et al. 2021,
    https://arxiv.org/abs/2107.03374). Raises ValueError unless 1 <= n <= K.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"expected n from 1 to {len(scores)}, got {n}")
    ranked = enumerate(sorted(scores), start=1)
    return sum(score * comb(i - 1, n - 1) for i, score in ranked) / comb(len(scores), n)


def sizes(samples: int) -> list[int]:
    """1, 2, 4 ... and `samples` itself."""
    powers = [2**i for i in range(samples.bit_length())]
    return [*(n for n in powers if n < samples), samples]


def mean_best(scores: Collection[Sequence[float]], samples: int) -> dict[str, float | None]:
    """N as text -> mean of `best_of_n` over the questions that have N scores; None where no question has.

    `scores` holds those of one question each, of at most `samples` answers.
    """
    found: dict[str, float | None] = {}
    for n in sizes(samples):
        bests = [best_of_n(each, n) for each in scores if len(each) >= n]
        found[str(n)] = sum(bests) / len(bests) if bests else None
    return found
