from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.pairing.scoring import value
from maskdpo_ray.pairing.strategies.protocol import Picks, strategy
from maskdpo_ray.records import ScoredAnswer


@strategy(unit="pair")
def all_pairs(answers: Sequence[ScoredAnswer], rules: PairsConfig) -> Picks:
    """Pick every two answers, the one of higher score as chosen (APEFT section 3.1: N over 2 pairs).

    Two of one score are dropped by the filters, as the paper drops them.
    """
    return [(b, a) if value(a) < value(b) else (a, b) for a, b in combinations(answers, 2)]
