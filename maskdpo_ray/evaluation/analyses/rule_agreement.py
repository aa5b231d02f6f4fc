"""Agreement of rules with labels set by hand, in Markdown: labels of `facts`, verdicts of `factscore`.

python -m maskdpo_ray.evaluation.analyses.rule_agreement tests/fixtures/facts_labels.jsonl \
    [tests/fixtures/facts_unchecked.txt]

A second file, one `question_id|sentence` per line, names sentences that were labelled `no_hallucination` although the
table of facts covers only a part of them; the labels count them as `unverifiable`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from maskdpo_ray.annotation.rules.facts import FactsAnnotator
from maskdpo_ray.config import cli
from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.data.jsonl import records
from maskdpo_ray.errors import DataError, UserError, shown
from maskdpo_ray.evaluation.evaluators.factscore import FactScore
from maskdpo_ray.records import (
    CORRECT,
    IRRELEVANT,
    LABELS,
    NO_HALLUCINATION,
    SUPPORTED,
    UNVERIFIABLE,
    Question,
    Record,
    Rollout,
)


class HandLabel(Record):
    """One line of a file: a sentence of an answer, labelled by hand."""

    split: str
    question_id: str
    """Id of a built-in question."""
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
class Labelled:
    """A sentence, labelled by hand and by the annotator."""

    split: str
    by_hand: str
    by_annotator: str


@dataclass(frozen=True)
class Judged:
    """A sentence: is it correct by hand, and does the evaluator find all its facts supported (None: no fact)?"""

    split: str
    by_hand: bool
    by_evaluator: bool | None


Row = TypeVar("Row", Labelled, Judged)


def relabel(file: Path, unchecked: Path | None = None) -> list[Labelled]:
    """Label every sentence of a file of `HandLabel`s; those that `unchecked` names count as `unverifiable` by hand.

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
        compared.append(Labelled(row.split, by_hand, labels[span]))
    return compared


def rejudge(file: Path) -> list[Judged]:
    """Judge every sentence of a file of `HandLabel`s on its own. Raises DataError naming line and field."""
    evaluator = FactScore()
    evaluator.start()
    compared = []
    for row, question, _ in read(file):
        (judgement,) = evaluator.judge([(question, Rollout(question.id, 0, (), row.sentence, "stop", 0))])
        verdicts = {fact.verdict for fact in judgement.facts} - {IRRELEVANT}
        compared.append(Judged(row.split, row.label in CORRECT, verdicts == {SUPPORTED} if verdicts else None))
    return compared


def main(arguments: Sequence[str]) -> None:
    """Print agreement of labels by split, precision by label, and agreement of verdicts by split."""
    if len(arguments) not in (1, 2) or not all(map(os.path.isfile, arguments)):
        raise DataError(
            "usage: python -m maskdpo_ray.evaluation.analyses.rule_agreement FILE_OF_HAND_LABELS [FILE_OF_SENTENCES]"
        )
    file, *unchecked = map(Path, arguments)
    labelled = relabel(file, *unchecked)
    print("| part | sentences | same label | same side (correct or not) |\n|---|---|---|---|")
    for split, rows in _by_split(labelled).items():
        exact = sum(row.by_hand == row.by_annotator for row in rows) / len(rows)
        side = sum((row.by_hand in CORRECT) == (row.by_annotator in CORRECT) for row in rows) / len(rows)
        print(f"| {split} | {len(rows)} | {exact:.3f} | {side:.3f} |")
    given = Counter(row.by_annotator for row in labelled)
    agreed = Counter(row.by_annotator for row in labelled if row.by_hand == row.by_annotator)
    print("\n| label given | precision |\n|---|---|")
    for name in (name for name in LABELS if given[name]):
        print(f"| {name} | {agreed[name]} of {given[name]} |")
    print("\n| part | sentences | judged | same side | correct of supported | incorrect of unsupported |")
    print("|---|---|---|---|---|---|")
    for split, judged in _by_split(rejudge(file)).items():
        counts = Counter((row.by_evaluator, row.by_hand) for row in judged if row.by_evaluator is not None)
        agreed_sides = {side: counts[side, side] for side in (True, False)}
        share = f"{sum(agreed_sides.values()) / counts.total():.3f}" if counts else "-"
        cells = [split, str(len(judged)), str(counts.total()), share]
        cells += [f"{agreed} of {agreed + counts[side, not side]}" for side, agreed in agreed_sides.items()]
        print(f"| {' | '.join(cells)} |")


def _by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {split: [row for row in rows if row.split == split] for split in dict.fromkeys(row.split for row in rows)}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
