"""How often the factscore rules agree with labels set by hand, as a Markdown table.

python -m maskdpo_ray.evaluation.analyses.verdict_agreement tests/fixtures/facts_labels.jsonl
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray.config import cli
from maskdpo_ray.errors import DataError, UserError
from maskdpo_ray.evaluation.analyses import rule_agreement
from maskdpo_ray.evaluation.evaluators.factscore import FactScore
from maskdpo_ray.records import CORRECT, IRRELEVANT, SUPPORTED, Rollout


@dataclass(frozen=True)
class Compared:
    """One sentence: is it right by hand, and do the rules find all its facts supported (None: they find none)?"""

    split: str
    by_hand: bool
    by_rules: bool | None


def compare(file: Path) -> list[Compared]:
    """Judge again every sentence of a file of `HandLabel`s. Raises DataError naming line and field."""
    evaluator = FactScore()
    evaluator.start()
    compared = []
    for row, question, _ in rule_agreement.read(file):
        (judgement,) = evaluator.judge([(question, Rollout(question.id, 0, (), row.sentence, "stop", 0))])
        verdicts = {fact.verdict for fact in judgement.facts} - {IRRELEVANT}
        compared.append(Compared(row.split, row.label in CORRECT, verdicts == {SUPPORTED} if verdicts else None))
    return compared


def main(arguments: Sequence[str]) -> None:
    """Print, by split, how many sentences the rules judge, and how often on the side of the hand."""
    if len(arguments) != 1 or not os.path.isfile(arguments[0]):
        raise DataError("usage: python -m maskdpo_ray.evaluation.analyses.verdict_agreement FILE_OF_HAND_LABELS")
    compared = compare(Path(arguments[0]))
    print("| part | sentences | judged | same side | right of supported | wrong of unsupported |")
    print("|---|---|---|---|---|---|")
    for split in dict.fromkeys(row.split for row in compared):
        rows = [row for row in compared if row.split == split]
        counts = Counter((row.by_rules, row.by_hand) for row in rows if row.by_rules is not None)
        agreed = counts[True, True] + counts[False, False]
        given = {side: counts[side, True] + counts[side, False] for side in (True, False)}
        cells = [split, len(rows), counts.total(), f"{agreed / counts.total():.3f}" if counts else "-"]
        cells += [f"{counts[side, side]} of {given[side]}" for side in (True, False)]
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
