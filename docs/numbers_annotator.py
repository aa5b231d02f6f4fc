"""An example of an annotator of one's own: every number of a sentence must stand in the question's document."""

from __future__ import annotations

import re
from collections.abc import Sequence

from maskdpo_ray.annotation import sentences
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, Annotation, Question, Rollout, Sentence


class NumbersAnnotator:
    """`annotation.options: {digits: 3}` looks only at numbers of three digits or more."""

    def __init__(self, digits: int = 1) -> None:
        self._number = re.compile(rf"\d{{{digits},}}")

    def check(self, question: Question) -> None:
        """Raises DataError for a question without a document."""
        if not question.document:
            raise DataError(f"question {question.id!r}: document: expected a text, got none")

    def start(self) -> None:
        """Nothing to load."""

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each answer."""
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
