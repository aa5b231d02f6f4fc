"""Comparison of a published policy with the trained one, by the log-probs of a few pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import PairLogps, TrainingExample
from maskdpo_ray.terminal import note
from maskdpo_ray.training import noise


def compare(
    examples: Sequence[TrainingExample],
    trained: Sequence[PairLogps],
    published: Sequence[PairLogps],
    reference: Sequence[PairLogps],
) -> dict[str, float]:
    """Metrics of a published policy.

    published_logp_error: mean absolute error of a token's log-prob against the trained policy, nats; published_margin:
    published margin / trained margin, where a margin is M_w - M_l (Mask-DPO eq. 5); absent if the trained one is 0, or
    smaller than the norm of its tokens' errors.
    """
    num_tokens = sum(np.count_nonzero(weights) for e in examples for weights in (e.chosen_weights, e.rejected_weights))
    difference = sum(
        float(np.abs(one - other).sum(dtype=np.float64))
        for pair in zip(trained, published, strict=True)
        for one, other in zip(*pair, strict=True)
    )
    found = {"published_logp_error": difference / num_tokens}
    margin, errors = _parts(examples, trained, reference).sum(), _parts(examples, trained, published)
    if abs(margin) > np.linalg.norm(errors):
        found["published_margin"] = float(1 - errors.sum() / margin)
    return found


def _parts(examples: Sequence[TrainingExample], logps: Sequence[PairLogps], others: Sequence[PairLogps]) -> np.ndarray:
    """Terms of M_w - M_l, one for each token of all pairs: float64."""
    parts = [np.zeros(0)]
    for example, own, other in zip(examples, logps, others, strict=True):
        for sign, side, weights in ((1, 0, example.chosen_weights), (-1, 1, example.rejected_weights)):
            parts.append(sign * np.asarray(weights) * (own[side].astype(np.float64) - other[side]))
    return np.concatenate(parts)


def check(found: dict[str, float], folder: str, config: Config) -> None:
    """Raise ModelError when log-probs differ by more than rounding explains."""
    is_coarse = config.ds.param_dtype == "bf16" or config.engine_dtype == "bfloat16"
    error, allowed = found["published_logp_error"], noise.LOGPS["bf16" if is_coarse else "fp32"]
    if not error <= allowed:
        raise ModelError(
            f"{folder}: expected log-probs of the policy that was trained, within {allowed:.2g} nats a token, "
            f"loaded back they differ by {error:.2g}"
        )


def check_margin(
    examples: Sequence[TrainingExample],
    trained: Sequence[PairLogps],
    published: Sequence[PairLogps],
    reference: Sequence[PairLogps],
    folder: str,
    config: Config,
) -> None:
    """Raise ModelError when most of the trained margin is not in what was published.

    A training that moved log-probs by less than bfloat16 rounds may lose all of it within `check`. But errors of
    rounding are independent, while what was learned adds up: five standard deviations of the sum of the former, and
    half of their squares, by which errors of logits lower a log-prob on average.

    Whole weights in float32 that engines round to bfloat16 do lose it: the folder is right, and a line is shown.
    """
    margin, errors = _parts(examples, trained, reference).sum(), _parts(examples, trained, published)
    by_chance = 5 * np.linalg.norm(errors) + errors @ errors / 2
    if abs(errors.sum()) <= max(by_chance, abs(margin) / 2):
        return
    line = f"{folder}: expected what training added to the margin of pairs ({margin:.3g} nats for {len(examples)})"
    line += f", loaded back it is {margin - errors.sum():.3g}"
    if config.ds.param_dtype == "bf16" or config.engine_dtype == "float32" or config.lora.rank:
        raise ModelError(line)
    note(f"{line} in bfloat16, in which engines hold the weights: set vllm.dtype to float32, or ds.param_dtype to bf16")
