"""Factuality of annotated answers, and how much it changed: Mask-DPO sections 2.2 and 3.1, appendix A.

Everything is a ratio of sums over answers. The sums are kept by topic and replication, so that means,
standard deviations over replications and bootstrap intervals over topics all come from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.questions import topic_key
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
    "cut_off": ("cut_off", "answers"),
    "nothing_checkable": ("nothing_checkable", "answers"),
    "scored": ("scored", "answers"),
}
"""Metric -> (numerator, denominator), names of sums over answers.

score: mean over answers of correct / parsed sentences, no_fact among the correct (paper 2.2);
pooled_score: correct facts / (correct + incorrect facts) over all answers (paper Table 1);
correct_facts: no_hallucination sentences per answer; incorrect_facts: contradictory and unverifiable
ones; cut_off: share that met the length limit; nothing_checkable: share without a sentence other
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
    "cut_off",
    "nothing_checkable",
)


@dataclass(frozen=True)
class Statistic:
    """A metric over R replications. None where it is not defined (score when nothing could be scored)."""

    mean: float | None
    """Mean over replications."""
    sd: float | None
    """Standard deviation over replications (n - 1); None with one replication."""
    low: float | None
    """95% interval of the mean by bootstrap over topics."""
    high: float | None
    per_replication: tuple[float | None, ...]


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
    topic_sums: dict[str, dict[str, tuple[float, ...]]]
    """Topic -> sum -> one number per replication: what `compare` resamples."""

    def __post_init__(self) -> None:
        """Raises ValueError when a metric or a sum is missing: in a file of another version, say."""
        if self.metrics.keys() != METRICS.keys():
            raise ValueError(f"field 'metrics': expected {', '.join(METRICS)}, got {', '.join(self.metrics) or 'none'}")
        if not self.topic_sums:
            raise ValueError("field 'topic_sums': expected topics, got none")
        for topic, sums in self.topic_sums.items():
            if set(sums) != set(_SUMS) or any(len(values) != self.replications for values in sums.values()):
                raise ValueError(
                    f"field 'topic_sums.{topic}': expected {self.replications} numbers for each of {', '.join(_SUMS)}"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Evaluation:
        """The opposite of `to_json`. Raises ValueError naming the field."""
        return from_json(Evaluation, value)


@dataclass(frozen=True)
class Change:
    """A metric before and after, and the 95% bootstrap interval of after - before."""

    before: float | None
    after: float | None
    gain: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Gain:
    """What changed between two evaluations of the same topics."""

    topics: int
    bootstrap_samples: int
    metrics: dict[str, Change]
    """By the names of `METRICS`."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def evaluate(
    questions: Sequence[Question], answers: Iterable[tuple[Rollout, Annotation]], *, seed: int, bootstrap_samples: int
) -> Evaluation:
    """Statistics of `answers` to `questions`, in any order, `Rollout.sample` being the replication.

    Raises ValueError when a question is not answered exactly once per replication, an answer is to
    an unknown question, or an annotation is of another answer.
    """
    spelling: dict[str, str] = {}  # a topic goes by the first one
    topic_of = {q.id: spelling.setdefault(topic_key(q.topic), q.topic) for q in questions}
    if not questions or len(topic_of) != len(questions):
        raise ValueError(f"expected questions with different ids, got {len(questions)} with {len(topic_of)} ids")
    rows: dict[tuple[str, int], dict[str, float]] = {}
    kinds: dict[str, list[int]] = {}
    for rollout, annotation in answers:
        key = (rollout.question_id, rollout.sample)
        if key != (annotation.question_id, annotation.sample):
            raise ValueError(f"answer {key} comes with the annotation of {(annotation.question_id, annotation.sample)}")
        if rollout.question_id not in topic_of:
            raise ValueError(f"answer to question {rollout.question_id!r}, which is not evaluated")
        if key in rows:
            raise ValueError(f"question {key[0]!r} is answered twice in replication {key[1]}")
        rows[key] = _count(rollout, annotation)
        for sentence in annotation.sentences:
            if sentence.label in INCORRECT or sentence.label == NO_HALLUCINATION:
                kinds.setdefault(sentence.kind or "other", [0, 0])[sentence.label in INCORRECT] += 1
    replications = 1 + max((sample for _, sample in rows), default=-1)
    for replication in range(replications):
        for question_id in topic_of:
            if (question_id, replication) not in rows:
                raise ValueError(
                    f"question {question_id!r} has no answer in replication {replication} of {replications}"
                )
    if len(rows) != len(topic_of) * replications or not rows:
        raise ValueError(f"expected {len(topic_of)} questions in replications 0 to R-1, got {len(rows)} answers")

    topics = sorted(set(topic_of.values()))
    index = {topic: number for number, topic in enumerate(topics)}
    sums = np.zeros((len(topics), len(_SUMS), replications))
    for (question_id, replication), row in rows.items():
        sums[index[topic_of[question_id]], :, replication] += [row[name] for name in _SUMS]
    resampled = _resample(sums, seed, bootstrap_samples)
    total = sums.sum(axis=0)
    return Evaluation(
        questions=len(topic_of),
        replications=replications,
        metrics={name: _statistic(_ratio(total, name), _mean(_ratio(resampled, name))) for name in METRICS},
        kinds={
            kind: KindOfFact(right / len(rows), wrong / len(rows)) for kind, (right, wrong) in sorted(kinds.items())
        },
        topic_scores={
            topic: _plain(sums[i, _SUMS.index("score")].sum(), sums[i, _SUMS.index("scored")].sum())
            for i, topic in enumerate(topics)
        },
        topic_sums={
            topic: {name: tuple(sums[i, column].tolist()) for column, name in enumerate(_SUMS)}
            for i, topic in enumerate(topics)
        },
    )


def compare(before: Evaluation, after: Evaluation, *, seed: int, bootstrap_samples: int) -> Gain:
    """Gain of `after` over `before` with 95% percentile intervals, paired bootstrap over topics.

    Topics, not answers, are resampled: answers about one topic stand and fall together.
    Raises ValueError when the two are not of the same topics.
    """
    if before.topic_sums.keys() != after.topic_sums.keys():
        odd = sorted(before.topic_sums.keys() ^ after.topic_sums.keys())[0]
        raise ValueError(f"the evaluations are of different topics: {odd!r} is in one only")
    topics = sorted(before.topic_sums)
    # The same seed draws the same topics on both sides: that is the pairing.
    resampled = [_resample(_array(e, topics), seed, bootstrap_samples) for e in (before, after)]
    metrics = {}
    for name in METRICS:
        old, new = before.metrics[name].mean, after.metrics[name].mean
        gains = _mean(_ratio(resampled[1], name)) - _mean(_ratio(resampled[0], name))
        metrics[name] = Change(old, new, None if old is None or new is None else new - old, *_interval(gains))
    return Gain(topics=len(topics), bootstrap_samples=bootstrap_samples, metrics=metrics)


def _count(rollout: Rollout, annotation: Annotation) -> dict[str, float]:
    labels = [sentence.label for sentence in annotation.sentences]
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
        "tokens": len(rollout.token_ids),
        "cut_off": rollout.finish_reason == "length",
        "nothing_checkable": all(label == NO_FACT for label in labels),
    }


def _array(evaluation: Evaluation, topics: list[str]) -> NDArray[np.float64]:
    return np.array([[evaluation.topic_sums[topic][name] for name in _SUMS] for topic in topics])


def _resample(sums: NDArray[np.float64], seed: int, samples: int) -> NDArray[np.float64]:
    """[topics, sums, replications] -> [samples, sums, replications], topics drawn with replacement."""
    topics = len(sums)
    drawn = np.random.default_rng(seed).multinomial(topics, np.full(topics, 1 / topics), size=samples)
    return (drawn @ sums.reshape(topics, -1)).reshape(samples, *sums.shape[1:])


def _ratio(sums: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """[..., sums, replications] -> [..., replications]; NaN where the denominator is 0."""
    numerator, denominator = (sums[..., _SUMS.index(name), :] for name in METRICS[metric])
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of the values that are defined; NaN where none is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _statistic(values: NDArray[np.float64], resampled: NDArray[np.float64]) -> Statistic:
    defined = values[~np.isnan(values)]
    return Statistic(
        float(defined.mean()) if len(defined) else None,
        float(defined.std(ddof=1)) if len(defined) > 1 else None,
        *_interval(resampled),
        tuple(None if np.isnan(value) else float(value) for value in values),
    )


def _interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _plain(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None
