from __future__ import annotations

from collections.abc import Sequence

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.pairing.scoring import value
from maskdpo_ray.pairing.strategies.protocol import Picks, strategy
from maskdpo_ray.records import ScoredAnswer


@strategy(unit="answer")
def unpaired(answers: Sequence[ScoredAnswer], rules: PairsConfig, threshold: float = 1.0) -> Picks:
    """Pick each answer alone, as good or as bad, for objectives that take single answers (`kto`; `sft`: the good ones).

    Args:
        threshold: an answer of at least this score is chosen, any other is rejected.
    """
    return [(answer, None) if value(answer) >= threshold else (None, answer) for answer in answers]
