"""Agreement of an annotator with labels set by hand: precision, recall, F1 and Cohen's kappa, with intervals.

Sentences of the labelled set are compared. An annotator's label of one is the worst that it gave to a part of it, so
that annotators of clauses and of spans are measured by the same sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.annotation.labelled_sets import CORRECT_SIDE, INCORRECT_SIDE, Labelled, Layout, worst
from maskdpo_ray.data.questions import topic_key
from maskdpo_ray.evaluation.intervals import interval, resample
from maskdpo_ray.records import INCORRECT, UNPARSED, Annotation

Counts = NDArray[np.float64]
"""[..., by hand, by the annotator]: sentences; the annotator has one class more, `unparsed`."""


@dataclass(frozen=True)
class Figure:
    """A statistic with its 95% interval by bootstrap over topics; None where it is not defined, as an interval of one
    topic is not."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """Confusion of an annotator with a labelled set, by topic."""

    classes: tuple[str, ...]
    by_topic: Counts
    """[topics, classes, classes + 1]."""
    answers: int

    @property
    def confusion(self) -> Counts:
        """Sentences [by hand, by the annotator], `unparsed` last."""
        return np.asarray(self.by_topic.sum(axis=0))

    def sides(self) -> Agreement:
        """The same with two classes: correct and hallucinated."""
        order = (CORRECT_SIDE, INCORRECT_SIDE)
        side = [order.index(side_of(name)) for name in self.classes]
        folded = np.zeros((len(self.by_topic), 2, 3))
        for i, row in enumerate(side):
            for j, column in enumerate([*side, 2]):
                folded[:, row, column] += self.by_topic[:, i, j]
        return Agreement(order, folded, self.answers)

    def of_class(self, name: str, seed: int, samples: int) -> dict[str, Figure]:
        """precision, recall, f1 and kappa of one class against the rest."""
        place = self.classes.index(name)

        def split(counts: Counts) -> dict[str, Counts]:
            hit = counts[..., place, place]
            given, by_hand, total = counts[..., place].sum(-1), counts[..., place, :].sum(-1), counts.sum((-1, -2))
            chance = (given * by_hand + (total - given) * (total - by_hand)) / total**2
            return {
                "precision": _ratio(hit, given),
                "recall": _ratio(hit, by_hand),
                "f1": _ratio(2 * hit, given + by_hand),
                "kappa": _ratio((total - given - by_hand + 2 * hit) / total - chance, 1 - chance),
            }

        return self._figures(split, seed, samples)

    def overall(self, seed: int, samples: int) -> dict[str, Figure]:
        """accuracy, balanced accuracy (mean recall of the classes that occur) and Cohen's kappa of all classes.

        kappa = (po - pe) / (1 - pe), pe = sum over classes of the product of both shares (Cohen 1960). An `unparsed`
        sentence agrees with nothing.
        """
        size = len(self.classes)

        def whole(counts: Counts) -> dict[str, Counts]:
            total, by_hand, given = counts.sum((-1, -2)), counts.sum(-1), counts[..., :size].sum(-2)
            hits = np.einsum("...ii->...i", counts[..., :size])
            observed, chance = hits.sum(-1) / total, (by_hand * given).sum(-1) / total**2
            recalls = np.where(by_hand > 0, hits / np.maximum(by_hand, 1), 0.0)
            return {
                "accuracy": observed,
                "balanced accuracy": _ratio(recalls.sum(-1), (by_hand > 0).sum(-1)),
                "kappa": _ratio(observed - chance, 1 - chance),
            }

        return self._figures(whole, seed, samples)

    def _figures(self, statistics: Callable[[Counts], dict[str, Counts]], seed: int, samples: int) -> dict[str, Figure]:
        flat = self.by_topic.reshape(len(self.by_topic), -1, 1)
        drawn = resample(flat, seed, samples)[..., 0].reshape(samples, *self.by_topic.shape[1:])
        values, spread = statistics(self.confusion), statistics(drawn)
        bounds = {name: interval(each, len(self.by_topic)) for name, each in spread.items()}
        return {name: Figure(_defined(value), *bounds[name]) for name, value in values.items()}


def side_of(name: str) -> str:
    """Side of a class: that of its label, or itself."""
    return INCORRECT_SIDE if name in (*INCORRECT, INCORRECT_SIDE) else CORRECT_SIDE


def compare(layout: Layout, answers: Sequence[Labelled], annotations: Sequence[Annotation]) -> Agreement:
    """Compare each sentence of the answers; `annotations` are those of the same answers, in the same order.

    A sentence of which the annotator labelled no part is `unparsed`. Raises ValueError when no answer has a sentence.
    """
    classes = tuple(dict.fromkeys(layout.classes.values()))
    topics = sorted({topic_key(each.question.topic) for each in answers})
    place = {topic: number for number, topic in enumerate(topics)}
    counts = np.zeros((len(topics), len(classes), len(classes) + 1))
    column: Mapping[str, int] = {
        **{label: classes.index(name) for label, name in layout.classes.items()},
        UNPARSED: len(classes),
    }
    for each, annotation in zip(answers, annotations, strict=True):
        given = [(sentence.start, sentence.end, sentence.label) for sentence in annotation.sentences]
        for start, end, label in each.sentences:
            said = worst(start, end, given) or UNPARSED
            counts[place[topic_key(each.question.topic)], column[label], column[said]] += 1
    if not counts.sum():
        raise ValueError("expected labelled sentences, got answers without one")
    return Agreement(classes, counts[counts.sum((1, 2)) > 0], len(answers))


def _ratio(numerator: Counts, denominator: Counts) -> Counts:
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _defined(value: Counts) -> float | None:
    return None if np.isnan(value) else float(value)
