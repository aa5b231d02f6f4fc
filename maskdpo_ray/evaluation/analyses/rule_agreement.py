"""Sentences that were labelled by hand: what the rules of annotators and evaluators are measured by.

How often the `facts` annotator agrees with labels set by hand, as a Markdown table.

python -m maskdpo_ray.evaluation.analyses.rule_agreement tests/fixtures/facts_labels.jsonl \
    [tests/fixtures/facts_unchecked.txt]

A second file, one `question_id|sentence` per line, names sentences that were labelled `no_hallucination` although the
table covers only a part of them; they are then taken as `unverifiable`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray.annotation.rules.facts import FactsAnnotator
from maskdpo_ray.config import cli
from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.data.jsonl import records
from maskdpo_ray.errors import DataError, UserError, shown
from maskdpo_ray.records import CORRECT, LABELS, NO_HALLUCINATION, UNVERIFIABLE, Question, Rollout


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


@dataclass(frozen=True)
class Compared:
    """One sentence, labelled twice."""

    split: str
    by_hand: str
    by_annotator: str


def compare(file: Path, unchecked: Path | None = None) -> list[Compared]:
    """Relabel every sentence of a file of `HandLabel`s; those that `unchecked` names are taken as `unverifiable`.

    Raises DataError naming the line whose question or sentence isn't found.
    """
    annotator = FactsAnnotator()
    partly = frozenset(unchecked.read_text(encoding="utf-8").splitlines() if unchecked else ())
    compared = []
    for row, question, where in read(file):
        (annotation,) = annotator.annotate([(question, Rollout(question.id, 0, (), row.text, "stop", 0))])
        labels = {(sentence.start, sentence.end): sentence.label for sentence in annotation.sentences}
        span = (row.start, row.end)
        if span not in labels:
            raise DataError(f"{where}: sentence: expected one that the annotator finds, got {shown(row.sentence)}")
        by_hand = row.label
        if by_hand == NO_HALLUCINATION and f"{row.question_id}|{row.sentence}" in partly:
            by_hand = UNVERIFIABLE
        compared.append(Compared(row.split, by_hand, labels[span]))
    return compared


def main(arguments: Sequence[str]) -> None:
    """Print agreement by split and precision by label."""
    if len(arguments) not in (1, 2) or not all(map(os.path.isfile, arguments)):
        raise DataError(
            "usage: python -m maskdpo_ray.evaluation.analyses.rule_agreement FILE_OF_HAND_LABELS [FILE_OF_SENTENCES]"
        )
    compared = compare(*map(Path, arguments))
    print("| part | sentences | same label | same side (correct or not) |\n|---|---|---|---|")
    for split in dict.fromkeys(row.split for row in compared):
        rows = [row for row in compared if row.split == split]
        exact = sum(row.by_hand == row.by_annotator for row in rows) / len(rows)
        side = sum((row.by_hand in CORRECT) == (row.by_annotator in CORRECT) for row in rows) / len(rows)
        print(f"| {split} | {len(rows)} | {exact:.3f} | {side:.3f} |")
    given = Counter(row.by_annotator for row in compared)
    agreed = Counter(row.by_annotator for row in compared if row.by_hand == row.by_annotator)
    print("\n| label given | precision |\n|---|---|")
    for label in (label for label in LABELS if given[label]):
        print(f"| {label} | {agreed[label]} of {given[label]} |")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
