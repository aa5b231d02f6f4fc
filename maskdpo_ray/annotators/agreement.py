"""How often the `facts` annotator agrees with labels set by hand, as a Markdown table.

python -m maskdpo_ray.annotators.agreement tests/fixtures/facts_labels.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray import cli
from maskdpo_ray.annotators.facts import FactsAnnotator
from maskdpo_ray.domains import countries, elements
from maskdpo_ray.errors import DataError, UserError
from maskdpo_ray.records import CORRECT, LABELS, Rollout


@dataclass(frozen=True)
class Compared:
    """One sentence, labelled twice."""

    split: str
    by_hand: str
    by_annotator: str


def compare(file: Path) -> list[Compared]:
    """Label again every sentence of a file of hand labels.

    Each line holds split, question_id (of a built-in question), text of the whole answer, sentence,
    start, end and label. Raises DataError naming the line whose question or sentence isn't found.
    """
    annotator = FactsAnnotator()
    questions = {question.id: question for question in (*countries.questions(), *elements.questions())}
    compared = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        if row["question_id"] not in questions:
            raise DataError(f"{file}:{number}: question_id: expected a built-in question, got {row['question_id']!r}")
        rollout = Rollout(row["question_id"], 0, (), row["text"], "stop", 0)
        (annotation,) = annotator.annotate([(questions[row["question_id"]], rollout)])
        labels = {(sentence.start, sentence.end): sentence.label for sentence in annotation.sentences}
        span = (row["start"], row["end"])
        if span not in labels or row["text"][slice(*span)] != row["sentence"]:
            raise DataError(f"{file}:{number}: expected a sentence of the answer at {span}, got {row['sentence']!r}")
        compared.append(Compared(row["split"], row["label"], labels[span]))
    return compared


def main(arguments: Sequence[str]) -> None:
    """Print agreement by split and precision by label."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        raise DataError("usage: python -m maskdpo_ray.annotators.agreement FILE_OF_HAND_LABELS")
    compared = compare(Path(arguments[0]))
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
