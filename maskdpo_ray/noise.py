"""How much two computations of the same model may differ, by dtype: what the guards of training allow."""

from __future__ import annotations

import math

LOGPS = {"fp32": 1e-3, "bf16": 0.3}
"""Nats of a token's log-prob, on average. Measured: 6e-6 and 0.08 (30 layers, random tokens), 0.12 where routers of
experts flip."""
GRADIENT = {"fp32": 0.01, "bf16": 0.7}
"""Of a gradient: the difference's norm over its own. Measured: 5e-6 and 0.13, with routers 0.29."""
_ERRORS = {"fp32": 1e-3, "bf16": 0.1}
"""Nats, standard deviation of a log-prob of an answer's token; of different tokens independent."""


def of_first_loss(dtype: str, beta: float, num_tokens: float, num_pairs: int) -> float:
    """How far a batch's loss may be off when its pairs' policy and reference are the same.

    A pair's reward margin m is then beta times a sum of as many independent errors as it has tokens; -log sigmoid(m) is
    log 2 - m / 2 + m^2 / 8 about 0. Four standard deviations of the mean of the second term, and the third.
    """
    spread = beta * _ERRORS[dtype] * math.sqrt(num_tokens)
    return 4 * spread / 2 / num_pairs + spread**2 / 8 / num_pairs + 1e-5
