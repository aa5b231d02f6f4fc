"""Numerical noise between two computations of the same model, by dtype: the tolerances of the training guards."""

from __future__ import annotations

import math

LOGPS = {"fp32": 1e-3, "bf16": 0.3}
"""Mean error of a token's log-prob, nats. Measured: 6e-6 and 0.08 (30 layers, random tokens), 0.12 where expert
routing flips."""
GRADIENT = {"fp32": 0.01, "bf16": 0.7}
"""Relative error of a gradient, in norm. Measured: 5e-6 and 0.13, with routers 0.29."""
_ERRORS = {"fp32": 1e-3, "bf16": 0.1}
"""Standard deviation of the log-prob of an answer's token, nats, independent between tokens."""


def of_logps(dtype: str, num_tokens: float) -> float:
    """Tolerance of the mean error of `num_tokens` log-probs, nats: a mean of few scatters more."""
    return LOGPS[dtype] * (1 + 4 / math.sqrt(num_tokens))


def of_first_loss(dtype: str, beta: float, num_tokens: float, num_pairs: int) -> float:
    """Tolerance of a batch's loss when policy and reference are the same.

    A pair's reward margin m is then beta times a sum of independent errors, one per token; -log sigmoid(m) is
    log 2 - m / 2 + m^2 / 8 near 0. Four standard deviations of the mean of the second term, plus the third.
    """
    spread = beta * _ERRORS[dtype] * math.sqrt(num_tokens)
    return 4 * spread / 2 / num_pairs + spread**2 / 8 / num_pairs + 1e-5
