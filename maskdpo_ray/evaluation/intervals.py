"""Metrics that are ratios of sums over answers, with standard deviations over replications and bootstrap intervals.

The sums are kept by topic and replication. Topics, not answers, are resampled: answers about one topic are not
independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.data.questions import topic_key
from maskdpo_ray.records import Question, Record

TopicSums = dict[str, dict[str, tuple[float, ...]]]
"""Topic -> sum -> one number per replication."""


class Statistic(Record):
    """A metric over R replications; None where it is not defined (score when nothing could be scored)."""

    mean: float | None
    """Mean over replications."""
    sd: float | None
    """Standard deviation over replications (n - 1); None with one replication."""
    low: float | None
    """Lower end of the mean's 95% interval by bootstrap over topics; None with one topic."""
    high: float | None
    """Upper end of that interval."""
    per_replication: tuple[float | None, ...]
    """The metric of each replication."""


class Change(Record):
    """A metric before and after, and the 95% bootstrap interval of after - before."""

    before: float | None
    """The metric before; None where it is not defined."""
    after: float | None
    """The metric after."""
    gain: float | None
    """after - before."""
    low: float | None
    """Lower end of its 95% interval, paired bootstrap over topics; None with one topic."""
    high: float | None
    """Upper end of that interval."""


class Gain(Record):
    """Changes between two evaluations of the same topics."""

    topics: int
    """Number of topics that both evaluations have."""
    bootstrap_samples: int
    metrics: dict[str, Change]
    """Metric -> its change."""


class Measured(Protocol):
    """One of two evaluations that `compare` compares."""

    @property
    def judges(self) -> tuple[str | None, ...]:
        """Names of the judges; evaluations by different ones are not compared."""
        ...

    @property
    def ratios(self) -> Ratios: ...

    @property
    def topic_sums(self) -> TopicSums: ...

    @property
    def left_out(self) -> Mapping[str, str]:
        """Topics that are not in the sums because a question of theirs failed -> the error."""
        ...


def topics_of(questions: Iterable[Question]) -> dict[str, str]:
    """Question id -> topic, in the spelling that comes first."""
    spelling: dict[str, str] = {}
    return {question.id: spelling.setdefault(topic_key(question.topic), question.topic) for question in questions}


def refuse_other_topics(before: Iterable[str], after: Iterable[str]) -> None:
    """Raise ValueError unless the topics of two evaluations are the same."""
    if odd := sorted(set(before) ^ set(after)):
        raise ValueError(f"the evaluations are of different topics: {odd[0]!r} is in one only")


def compare(before: Measured, after: Measured, *, seed: int, bootstrap_samples: int) -> Gain:
    """Gain of `after` over `before` with 95% percentile intervals, paired bootstrap over topics.

    Topics that one of them left out count on neither side. Raises ValueError when that leaves none, when the topics
    differ otherwise, or when the judges do.
    """
    if before.judges != after.judges:
        raise ValueError(f"the evaluations are by different judges: {before.judges} and {after.judges}")
    refuse_other_topics(*([*side.topic_sums, *side.left_out] for side in (before, after)))
    common = before.topic_sums.keys() & after.topic_sums.keys()
    if not common:
        raise ValueError("the evaluations have no topic in common, as questions of all failed")
    sides = [{topic: side.topic_sums[topic] for topic in common} for side in (before, after)]
    changes = after.ratios.changes(*sides, seed=seed, bootstrap_samples=bootstrap_samples)
    return Gain(topics=len(common), bootstrap_samples=bootstrap_samples, metrics=changes)


@dataclass(frozen=True)
class Draws:
    """Metrics of one evaluation and of its resamples."""

    values: Mapping[str, float | None]
    """Metric -> its value, None where it is not defined."""
    resampled: Mapping[str, NDArray[np.float64]]
    """Metric -> [samples], NaN where it is not defined."""


@dataclass(frozen=True)
class Ratios:
    """Sums over answers, and the ratios of them that are metrics."""

    sums: tuple[str, ...]
    metrics: Mapping[str, tuple[str, str]]
    """Metric -> (numerator, denominator)."""

    def check(self, metrics: Mapping[str, Statistic], topic_sums: TopicSums, replications: int) -> None:
        """Raise ValueError when a metric or a sum is missing, as in a file of another version."""
        if metrics.keys() != self.metrics.keys():
            expected = ", ".join(self.metrics)
            raise ValueError(f"field 'metrics': expected {expected}, got {', '.join(metrics) or 'none'}")
        if not topic_sums:
            raise ValueError("field 'topic_sums': expected topics, got none")
        for topic, sums in topic_sums.items():
            if set(sums) != set(self.sums) or any(len(values) != replications for values in sums.values()):
                expected = f"expected {replications} numbers for each of {', '.join(self.sums)}"
                raise ValueError(f"field 'topic_sums.{topic}': {expected}")

    def measure(
        self,
        questions: Sequence[Question],
        counts: Iterable[tuple[tuple[str, int], Mapping[str, float]]],
        *,
        left_out: Mapping[str, str] = MappingProxyType({}),
        seed: int,
        bootstrap_samples: int,
    ) -> dict[str, Any]:
        """Values of the fields that all evaluations have.

        Args:
            counts: ((question id, replication), what the answer adds to each sum), in any order.
            left_out: topics that are not among `questions` because a question of theirs failed -> the error.
            seed: of the bootstrap over topics.
            bootstrap_samples: number of resamples.

        Raises ValueError when a question is not answered exactly once per replication, or an answer is to an unknown
        question.
        """
        sums = self._add_up(questions, counts)
        metrics = self._statistics(sums, seed, bootstrap_samples)
        return {
            "questions": len(questions),
            "replications": len(next(iter(metrics.values())).per_replication),
            "metrics": metrics,
            "topic_sums": sums,
            "left_out": dict(left_out),
        }

    def _add_up(
        self, questions: Sequence[Question], counts: Iterable[tuple[tuple[str, int], Mapping[str, float]]]
    ) -> TopicSums:
        topic_of = topics_of(questions)
        if not questions or len(topic_of) != len(questions):
            raise ValueError(f"expected questions with different ids, got {len(questions)} with {len(topic_of)} ids")
        rows: dict[tuple[str, int], Mapping[str, float]] = {}
        for key, row in counts:
            if key[0] not in topic_of:
                raise ValueError(f"answer to question {key[0]!r}, which is not evaluated")
            if key in rows:
                raise ValueError(f"question {key[0]!r} is answered twice in replication {key[1]}")
            rows[key] = row
        replications = 1 + max((sample for _, sample in rows), default=-1)
        keys = [(name, replication) for replication in range(replications) for name in topic_of]
        for name, replication in keys:
            if (name, replication) not in rows:
                raise ValueError(f"question {name!r} has no answer in replication {replication} of {replications}")
        if len(rows) != len(keys) or not rows:
            raise ValueError(f"expected {len(topic_of)} questions in replications 0 to R-1, got {len(rows)} answers")
        topics = sorted(set(topic_of.values()))
        index = {topic: number for number, topic in enumerate(topics)}
        sums = np.zeros((len(topics), len(self.sums), replications))
        for name, replication in keys:  # not in the order of `counts`, which may be that of completion
            sums[index[topic_of[name]], :, replication] += [rows[name, replication][column] for column in self.sums]
        return {
            topic: {name: tuple(sums[i, column].tolist()) for column, name in enumerate(self.sums)}
            for i, topic in enumerate(topics)
        }

    def add_up(self, rows: Iterable[tuple[str, Mapping[str, float]]]) -> TopicSums:
        """Sums over rows of (topic, sum -> value), as of one replication; a row needn't have all sums."""
        found: dict[str, dict[str, float]] = {}
        for topic, row in rows:
            sums = found.setdefault(topic_key(topic), dict.fromkeys(self.sums, 0.0))
            for name, value in row.items():
                sums[name] += value
        return {topic: {name: (value,) for name, value in sums.items()} for topic, sums in found.items()}

    def _statistics(self, topic_sums: TopicSums, seed: int, bootstrap_samples: int) -> dict[str, Statistic]:
        sums = self._array(topic_sums)
        resampled, total = resample(sums, seed, bootstrap_samples), sums.sum(axis=0)
        return {
            name: _statistic(self._ratio(total, name), _mean(self._ratio(resampled, name)), len(sums))
            for name in self.metrics
        }

    def changes(self, before: TopicSums, after: TopicSums, *, seed: int, bootstrap_samples: int) -> dict[str, Change]:
        """Change of every metric between sums of the same topics."""
        sides = [self._array(side) for side in (before, after)]
        # The same seed draws the same topics on both sides: that is the pairing.
        resampled = [resample(side, seed, bootstrap_samples) for side in sides]
        found = {}
        for name in self.metrics:
            old, new = (_average(self._ratio(side.sum(axis=0), name)) for side in sides)
            gains = _mean(self._ratio(resampled[1], name)) - _mean(self._ratio(resampled[0], name))
            change = None if old is None or new is None else new - old
            found[name] = Change(old, new, change, *interval(gains, len(before)))
        return found

    def draws(self, topic_sums: TopicSums, *, seed: int, bootstrap_samples: int) -> Draws:
        """Metrics, means over replications, of the topics as they are and of resamples, which are those of `seed`."""
        sums = self._array(topic_sums)
        resampled, total = resample(sums, seed, bootstrap_samples), sums.sum(axis=0)
        return Draws(
            {name: _average(self._ratio(total, name)) for name in self.metrics},
            {name: _mean(self._ratio(resampled, name)) for name in self.metrics},
        )

    def _array(self, topic_sums: TopicSums) -> NDArray[np.float64]:
        """[topics, sums, replications], topics in alphabetical order."""
        return np.array([[topic_sums[topic][name] for name in self.sums] for topic in sorted(topic_sums)])

    def _ratio(self, sums: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
        """[..., sums, replications] -> [..., replications]; NaN where the denominator is 0."""
        numerator, denominator = (sums[..., self.sums.index(name), :] for name in self.metrics[metric])
        return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def resample(sums: NDArray[np.float64], seed: int, samples: int) -> NDArray[np.float64]:
    """[topics, sums, replications] -> [samples, sums, replications], topics drawn with replacement."""
    topics = len(sums)
    drawn = np.random.default_rng(seed).multinomial(topics, np.full(topics, 1 / topics), size=samples)
    return (drawn @ sums.reshape(topics, -1)).reshape(samples, *sums.shape[1:])


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of the values that are defined; NaN where none is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _average(values: NDArray[np.float64]) -> float | None:
    """Mean of the values that are defined, None where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _statistic(values: NDArray[np.float64], resampled: NDArray[np.float64], topics: int) -> Statistic:
    defined = values[~np.isnan(values)]
    return Statistic(
        _average(values),
        float(defined.std(ddof=1)) if len(defined) > 1 else None,
        *interval(resampled, topics),
        tuple(None if np.isnan(value) else float(value) for value in values),
    )


def interval(values: NDArray[np.float64], topics: int) -> tuple[float | None, float | None]:
    """Bounds of 95% of the values; none of a single topic, which can only be drawn again."""
    defined = values[~np.isnan(values)]
    if not len(defined) or topics < 2:
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
