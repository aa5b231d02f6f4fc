"""How often the `facts` annotator agrees with labels that were set by hand on answers of SmolLM2-135M.

Each line of the fixture: split, question_id, answer (a number that tells the answers of one question apart),
text of the whole answer, sentence, start, end, label, note. The hand labels judge against the table: what it
does not hold is `unverifiable`, true or not, and a neighbour is a state with a common land border.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from maskdpo_ray.evaluation.analyses.rule_agreement import Labelled, relabel
from maskdpo_ray.records import CONTRADICTORY, CORRECT, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE

FIXTURE = Path(__file__).parents[2] / "fixtures" / "facts_labels.jsonl"

UNCHECKED = FIXTURE.with_name("facts_unchecked.txt")
"""Thirty of its sentences, labelled `no_hallucination` by hand for the part that the table holds. A sentence with a
part that it does not hold is `unverifiable` since the rules read by consumption: the fixture's labels stand, this file
says where the two readings differ. It was made by a reader of all 261 `no_hallucination` sentences who knew the new
meaning and the kinds of fact in the table, and saw neither the rules nor what they say."""

# Split -> least share of sentences labelled as by hand, and of those on the same side of correct/incorrect; then with
# UNCHECKED. Prompted as in the quickstart: dev, held_back; asked for free prose: *_prose. Measured as (exact, side):
# dev .972, .975 (UNCHECKED .992, .994), dev_prose .851, .881 (.940, .970), held_back 1.0, 1.0, held_back_prose .820,
# .852 (.934, .967), held_back_again .872, .907 (.965, 1.0). The rules before judged a sentence by what of it they could
# check: dev .992, .994, dev_prose .910, .925, held_back 1.0, 1.0, held_back_prose .918, .951, held_back_again .930,
# .965. The held-back parts were labelled after the first rules were frozen, held_back_again after the second.
FLOORS = {
    "dev": ((0.96, 0.96), (0.985, 0.99)),
    "dev_prose": ((0.83, 0.86), (0.91, 0.94)),
    "held_back": ((0.98, 0.98), (0.98, 0.98)),
    "held_back_prose": ((0.80, 0.83), (0.91, 0.95)),
    "held_back_again": ((0.86, 0.89), (0.95, 0.98)),
}
# Label -> least precision over all parts together, with UNCHECKED.
PRECISION = {NO_HALLUCINATION: 0.98, CONTRADICTORY: 0.97, UNVERIFIABLE: 0.93, NO_FACT: 0.9}


@cache
def compared(unchecked: Path | None = None) -> list[Labelled]:
    """Every sentence in the fixture, labelled by hand and by the annotator."""
    return relabel(FIXTURE, unchecked)


@pytest.mark.parametrize(("number", "unchecked"), [(0, None), (1, UNCHECKED)])
def test_agreement_with_hand_labels(number: int, unchecked: Path | None) -> None:
    for split, floors in FLOORS.items():
        pairs = [(row.by_hand, row.by_annotator) for row in compared(unchecked) if row.split == split]
        exact = sum(hand == own for hand, own in pairs) / len(pairs)
        side = sum((hand in CORRECT) == (own in CORRECT) for hand, own in pairs) / len(pairs)
        least_exact, least_side = floors[number]
        assert len(pairs) >= 60 and exact >= least_exact and side >= least_side, (split, exact, side)


def test_precision_per_label() -> None:
    rows = compared(UNCHECKED)
    labelled = Counter(row.by_annotator for row in rows)
    agreed = Counter(row.by_annotator for row in rows if row.by_hand == row.by_annotator)
    for label, least in PRECISION.items():
        assert agreed[label] / labelled[label] >= least, (label, agreed[label], labelled[label])


def test_every_unchecked_sentence_is_one_of_the_fixture() -> None:
    differ = sum(a != b for a, b in zip(compared(), compared(UNCHECKED), strict=True))
    lines = UNCHECKED.read_text(encoding="utf-8").splitlines()
    assert differ >= len(lines) == len(set(lines)) == 30
