"""The share of labels and verdicts that could not be read; with too many a run stops and learns nothing from the rest.

It is of all that is committed, by earlier attempts too: started again and again, a run does not get past a broken
judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from maskdpo_ray.config import Config
from maskdpo_ray.errors import AnnotatorError, EvaluatorError
from maskdpo_ray.records import UNPARSED, Annotation, Judgement

FEWEST = 50
"""Sentences, or facts, before a share means anything."""


@dataclass(frozen=True)
class Count:
    """Of an annotator's sentences, or of an evaluator's facts."""

    total: int = 0
    unparsed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.total + other.total, self.unparsed + other.unparsed)


Counts = Mapping[str, Count]
"""Of `annotations` and `judgements`; a part without a sentence or fact is left out."""


def count(annotations: Iterable[Annotation], judgements: Iterable[Judgement] = ()) -> Counts:
    """The sentences and facts of some answers."""
    counts: dict[str, Count] = {}
    for part, _, label, _ in _pieces(annotations, judgements):
        counts[part] = counts.get(part, Count()) + Count(1, int(label == UNPARSED))
    return counts


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    return {part: one.get(part, Count()) + other.get(part, Count()) for part in {**one, **other}}


class UnparsedShare:
    """Counts what a run, or a command, is about to commit."""

    def __init__(self, config: Config, committed: Counts) -> None:
        """`committed`: what is there already."""
        self._config = config
        self._counts = committed

    def take(self, annotations: Iterable[Annotation], judgements: Iterable[Judgement] = ()) -> None:
        """Count these too, before they are committed.

        Raises AnnotatorError or EvaluatorError, one line, when one of them is unparsed and the share above the highest.
        """
        annotations, judgements = list(annotations), list(judgements)
        self._counts = added(self._counts, count(annotations, judgements))
        for part, answer, label, why in _pieces(annotations, judgements):
            if label == UNPARSED:
                self._refuse_too_many(part, f"question {answer.question_id!r}, answer {answer.sample}: {why}")

    def _refuse_too_many(self, part: str, example: str) -> None:
        if fault := too_many(self._counts, part, self._config):
            error = AnnotatorError if part == "annotations" else EvaluatorError
            raise error(f"{fault}; one of them: {example}")


def too_many(counts: Counts, part: str, config: Config) -> str | None:
    """An error line about a share of `part` above what the config allows, None where it is not."""
    who, noun, field, highest = {
        "annotations": ("annotator", "sentences", "annotation.max_unparsed", config.annotation.max_unparsed),
        "judgements": ("evaluator", "facts", "eval.max_unparsed", config.eval.max_unparsed),
    }[part]
    found = counts.get(part, Count())
    if found.total < FEWEST or found.unparsed <= highest * found.total:
        return None
    expected = f"expected at most {highest:.0%} of the {noun} unparsed ({field})"
    return f"{who}: {expected}, got {found.unparsed} of {found.total}"


def _pieces(
    annotations: Iterable[Annotation], judgements: Iterable[Judgement]
) -> Iterator[tuple[str, Annotation | Judgement, str, str | None]]:
    """(part, answer, label or verdict, what was said) of each sentence and fact."""
    for annotation in annotations:
        for sentence in annotation.sentences:
            yield "annotations", annotation, sentence.label, sentence.evidence
    for judgement in judgements:
        for fact in judgement.facts:
            yield "judgements", judgement, fact.verdict, fact.evidence or fact.text
