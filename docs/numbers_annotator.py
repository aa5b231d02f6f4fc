"""Example of a custom annotator: every number in a sentence must occur in the question's document."""

from __future__ import annotations

import re
from collections.abc import Sequence

from maskdpo_ray.annotation import sentences
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, Annotation, Question, Rollout, Sentence


class NumbersAnnotator:
    """Annotator of numbers of at least `digits` digits.

    Set by `annotation.options: {digits: 3}`.
    """

    def __init__(self, digits: int = 1) -> None:
        self._number = re.compile(rf"\d{{{digits},}}")

    def check(self, question: Question) -> None:
        """Raise DataError for a question without a document."""
        if not question.document:
            raise DataError(f"question {question.id!r}: document: expected a text, got none")

    def start(self) -> None:
        """Do nothing. A model would be loaded here, on the annotation actor's node."""

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """Return one annotation for each answer, in order."""
        return [self._answer(question, rollout) for question, rollout in items]

    def _answer(self, question: Question, rollout: Rollout) -> Annotation:
        known = set(self._number.findall(question.document or ""))
        labelled = []
        for start, end in sentences.split(rollout.text, question.language):
            said = self._number.findall(rollout.text[start:end])
            wrong = [number for number in said if number not in known]
            label = CONTRADICTORY if wrong else NO_HALLUCINATION if said else NO_FACT
            evidence = f"not in the document: {', '.join(wrong)}" if wrong else None
            labelled.append(Sentence(start, end, label, evidence=evidence))
        return Annotation(rollout.question_id, rollout.sample, tuple(labelled))
