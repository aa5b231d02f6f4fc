"""The share of sentences whose labels could not be read; with too many a run stops and learns nothing from the rest."""

from __future__ import annotations

from collections.abc import Iterable

from maskdpo_ray.errors import AnnotatorError
from maskdpo_ray.records import UNPARSED, Annotation

FEWEST = 50
"""Sentences before a share means anything."""


class UnparsedShare:
    """Counts the sentences of a run, over all its annotation actors, from its (or its resumed part's) start."""

    def __init__(self, highest: float) -> None:
        """`highest` share that is borne, 0 to 1."""
        self._highest = highest
        self._sentences = self._unparsed = 0

    def count(self, annotations: Iterable[Annotation]) -> None:
        """Raises AnnotatorError, one line with an example, when the share is above the highest."""
        example = None
        for annotation in annotations:
            self._sentences += len(annotation.sentences)
            for sentence in annotation.sentences:
                if sentence.label == UNPARSED:
                    self._unparsed += 1
                    example = f"question {annotation.question_id!r}, answer {annotation.sample}: {sentence.evidence}"
        if example and self._sentences >= FEWEST and self._unparsed > self._highest * self._sentences:
            raise AnnotatorError(
                f"annotator: expected at most {self._highest:.0%} of the sentences unparsed "
                f"(annotation.max_unparsed), got {self._unparsed} of {self._sentences}; the last one: {example}"
            )
