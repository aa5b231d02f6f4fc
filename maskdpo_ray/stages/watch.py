"""The share of labels and verdicts that could not be read; with too many a run stops and learns nothing from the rest.

It is of all that is committed, by earlier attempts too: started again and again, a run does not get past a broken
judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import AnnotatorError, EvaluatorError, UserError
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
    labels = [sentence.label for annotation in annotations for sentence in annotation.sentences]
    verdicts = [fact.verdict for judgement in judgements for fact in judgement.facts]
    found = {"annotations": labels, "judgements": verdicts}
    return {part: Count(len(each), each.count(UNPARSED)) for part, each in found.items() if each}


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    return {part: one.get(part, Count()) + other.get(part, Count()) for part in {**one, **other}}


class _Limit(NamedTuple):
    error: type[UserError]
    who: str
    noun: str
    option: str
    highest: float


class UnparsedShare:
    """Counts what a run, or a command, is about to commit."""

    def __init__(self, config: Config, committed: Counts) -> None:
        """`committed`: what is there already."""
        self._counts = committed
        self._limits = {
            "annotations": _Limit(
                AnnotatorError, "annotator", "sentences", "annotation.max_unparsed", config.annotation.max_unparsed
            ),
            "judgements": _Limit(EvaluatorError, "evaluator", "facts", "eval.max_unparsed", config.eval.max_unparsed),
        }

    def take(self, annotations: Sequence[Annotation], judgements: Sequence[Judgement] = ()) -> None:
        """Count these too, before they are committed.

        Raises AnnotatorError or EvaluatorError, one line, when one of them is unparsed and the share above the highest.
        """
        counts = count(annotations, judgements)
        self._counts = added(self._counts, counts)
        if not any(each.unparsed for each in counts.values()):
            return
        for part, answer, label, why in _pieces(annotations, judgements):
            limit, found = self._limits[part], self._counts[part]
            if label == UNPARSED and found.total >= FEWEST and found.unparsed > limit.highest * found.total:
                raise limit.error(
                    f"{limit.who}: expected at most {limit.highest:.0%} of the {limit.noun} unparsed ({limit.option}), "
                    f"got {found.unparsed} of {found.total}; one of them: question {answer.question_id!r}, "
                    f"answer {answer.sample}: {why}"
                )


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
