"""How often the `facts` annotator agrees with labels that were set by hand on answers of SmolLM2-135M.

Each line of the fixture: split, question_id, answer (a number that tells the answers of one question apart),
text of the whole answer, sentence, start, end, label, note. The hand labels judge against the table: what it
does not hold is `unverifiable`, true or not, and a neighbour is a state with a common land border.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

from maskdpo_ray.annotators.agreement import Compared, compare
from maskdpo_ray.records import CONTRADICTORY, CORRECT, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE

FIXTURE = Path(__file__).parents[1] / "fixtures" / "facts_labels.jsonl"

# Split -> least share of sentences labelled as by hand, and of those on the same side of correct/incorrect.
# Prompted as in the quickstart: dev, held_back; asked for free prose: *_prose. Measured as (exact, side):
# dev .992, .994 (by the first version of the rules .942, .947); dev_prose .910, .925 (.761, .806). The
# held-back parts were labelled after the rules were frozen, and the rules then had .994, .994 and .869, .902.
# Four rules were mended afterwards for what these parts showed (now 1.0, 1.0 and .918, .951), so the former
# are the figures to go by. held_back_again was labelled after that: .930, .965.
FLOORS = {
    "dev": (0.97, 0.98),
    "dev_prose": (0.87, 0.89),
    "held_back": (0.97, 0.97),
    "held_back_prose": (0.85, 0.88),
    "held_back_again": (0.91, 0.94),
}
# Label -> least precision over all parts together.
PRECISION = {NO_HALLUCINATION: 0.97, CONTRADICTORY: 0.97, UNVERIFIABLE: 0.88, NO_FACT: 0.75}


@cache
def compared() -> list[Compared]:
    """Every sentence in the fixture, labelled by hand and by the annotator."""
    return compare(FIXTURE)


def test_agreement_with_hand_labels() -> None:
    for split, (least_exact, least_side) in FLOORS.items():
        pairs = [(row.by_hand, row.by_annotator) for row in compared() if row.split == split]
        exact = sum(hand == own for hand, own in pairs) / len(pairs)
        side = sum((hand in CORRECT) == (own in CORRECT) for hand, own in pairs) / len(pairs)
        assert len(pairs) >= 60 and exact >= least_exact and side >= least_side, (split, exact, side)


def test_precision_per_label() -> None:
    labelled = Counter(row.by_annotator for row in compared())
    agreed = Counter(row.by_annotator for row in compared() if row.by_hand == row.by_annotator)
    for label, least in PRECISION.items():
        assert agreed[label] / labelled[label] >= least, (label, agreed[label], labelled[label])
