"""Example of a custom annotator with confidences, which soft masks need: two rules, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.annotation import protocol
from maskdpo_ray.records import CORRECT, Annotation, Question, Rollout, Sentence


class AgreementAnnotator:
    """Annotator whose labels are those of `facts`, and whose confidence is the share of clauses that bear them out.

    A sentence is wrong as a whole if one of its clauses is; if the other one is right, the confidence is 0.5.
    Options are those of `facts` and `claims`.
    """

    def __init__(self, **options: Any) -> None:
        self._of_sentences = protocol.build("facts", options)
        self._of_clauses = protocol.build("claims", options)

    def check(self, question: Question) -> None:
        """Raise DataError for a question without facts."""
        self._of_sentences.check(question)

    def start(self) -> None:
        """Start both."""
        self._of_sentences.start()
        self._of_clauses.start()

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """Return one annotation for each answer, in order."""
        both = zip(self._of_sentences.annotate(items), self._of_clauses.annotate(items), strict=True)
        return [_with_confidences(sentences, clauses.sentences) for sentences, clauses in both]


def _with_confidences(annotation: Annotation, clauses: Sequence[Sentence]) -> Annotation:
    return replace(
        annotation,
        sentences=tuple(replace(each, confidence=_agreement(each, clauses)) for each in annotation.sentences),
    )


def _agreement(sentence: Sentence, clauses: Sequence[Sentence]) -> float:
    """Share of a sentence's clauses that are correct if it is, or incorrect if it is; 1 if it has none."""
    within = [clause for clause in clauses if sentence.start <= clause.start < sentence.end]
    agreeing = [clause for clause in within if (clause.label in CORRECT) == (sentence.label in CORRECT)]
    return len(agreeing) / len(within) if within else 1.0
