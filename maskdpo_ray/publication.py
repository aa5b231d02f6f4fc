"""Comparison of a published policy with the trained one, by the log-probs of a few pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskdpo_ray import noise
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.config import Config
from maskdpo_ray.errors import ModelError
from maskdpo_ray.reference import PairLogps


def compare(
    examples: Sequence[TrainingExample],
    trained: Sequence[PairLogps],
    published: Sequence[PairLogps],
    reference: Sequence[PairLogps],
) -> dict[str, float]:
    """Metrics of a published policy.

    published_logp_error: mean absolute error of a token's log-prob against the trained policy, nats; published_margin:
    published margin / trained margin, where a margin is M_w - M_l (Mask-DPO eq. 5); absent if the trained one is 0.
    """
    num_tokens = sum(np.count_nonzero(weights) for e in examples for weights in (e.chosen_weights, e.rejected_weights))
    difference = sum(
        float(np.abs(one - other).sum(dtype=np.float64))
        for pair in zip(trained, published, strict=True)
        for one, other in zip(*pair, strict=True)
    )
    found = {"published_logp_error": difference / num_tokens}
    if margin := _margin(examples, trained, reference):
        found["published_margin"] = _margin(examples, published, reference) / margin
    return found


def _margin(examples: Sequence[TrainingExample], logps: Sequence[PairLogps], reference: Sequence[PairLogps]) -> float:
    """M_w - M_l, summed over pairs."""
    total = 0.0
    for example, own, other in zip(examples, logps, reference, strict=True):
        for sign, side, weights in ((1, 0, example.chosen_weights), (-1, 1, example.rejected_weights)):
            ratios = own[side].astype(np.float64) - other[side]
            total += sign * float(np.asarray(weights) @ ratios)
    return total


def check(found: dict[str, float], folder: str, config: Config) -> None:
    """Raise ModelError when log-probs differ by more than rounding explains."""
    is_coarse = config.ds.param_dtype == "bf16" or config.engine_dtype == "bfloat16"
    error, allowed = found["published_logp_error"], noise.LOGPS["bf16" if is_coarse else "fp32"]
    if not error <= allowed:
        raise ModelError(
            f"{folder}: expected log-probs of the policy that was trained, within {allowed:.2g} nats a token, "
            f"loaded back they differ by {error:.2g}"
        )
