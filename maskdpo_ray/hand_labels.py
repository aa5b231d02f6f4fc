"""Sentences that were labelled by hand: what the rules of annotators and evaluators are measured by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.data.jsonl import records
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import LABELS, Question


@dataclass(frozen=True)
class HandLabel:
    """One line of a file."""

    split: str
    question_id: str
    """Of a built-in question."""
    text: str
    """The whole answer."""
    sentence: str
    start: int
    end: int
    """`sentence` is `text[start:end]`."""
    label: str
    """One of `LABELS`."""
    answer: int = 0
    """Tells the answers to one question apart."""
    note: str = ""


def read(file: Path) -> Iterator[tuple[HandLabel, Question, str]]:
    """(label, question, "file:line") of each line. Raises DataError naming line and field."""
    questions = {question.id: question for question in (*countries.questions(), *elements.questions())}
    for where, row in records(HandLabel, file):
        if row.question_id not in questions:
            raise DataError(f"{where}: question_id: expected a built-in question, got {shown(row.question_id)}")
        if row.label not in LABELS:
            raise DataError(f"{where}: label: expected one of {', '.join(LABELS)}; got {shown(row.label)}")
        if not 0 <= row.start < row.end or row.text[row.start : row.end] != row.sentence:
            place = f"{row.start} to {row.end}"
            raise DataError(f"{where}: sentence: expected the answer's from {place}, got {shown(row.sentence)}")
        yield row, questions[row.question_id], where
