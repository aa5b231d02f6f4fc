"""Key tokens of a response, chosen by an oracle: SePO (Yang et al., EMNLP 2025, arXiv 2408.13518)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from maskdpo_ray.records import CHOSEN, MISMATCHED, REJECTED, TrainingExample
from maskdpo_ray.training.reference import ReferenceLogps


def with_key_tokens(
    examples: Sequence[TrainingExample], oracle: ReferenceLogps, reference: ReferenceLogps, share: float
) -> Iterator[TrainingExample]:
    """Each example with weight at its key tokens alone.

    `oracle` and `reference`: log-probs of the examples under the oracle and under its reference.
    """
    for index, example in enumerate(examples):
        ratios = [(one - other).tolist() for one, other in zip(oracle[index], reference[index], strict=True)]
        responses = tuple(
            replace(response, weights=selected_weights(own, response.weights, response.role, share))
            for response, own in zip(example.responses, ratios, strict=True)
        )
        yield replace(example, responses=responses)


def selected_weights(
    log_ratios: Sequence[float], weights: Sequence[float], role: str, share: float
) -> tuple[float, ...]:
    """Token weights with those of all but the key tokens set to 0.

    The log-ratio of an oracle that learned preferences with DPO and of its own reference is an estimate of a token's
    reward. Key tokens are those with the highest in a chosen and with the lowest in a rejected response. They are
    taken among the tokens that have weight, so that a mask and a selection multiply: the tokens of a hallucinated
    sentence use up none of the share. Of equal tokens the first ones are taken. A mismatched response, from which a
    divergence is estimated and nothing learned, keeps its weights.

    Args:
        log_ratios: log pi_oracle - log pi_oracle's reference of each token; not read where the weight is 0.
        weights: of the same tokens.
        role: see `records.Response`.
        share: of the tokens with weight, above 0 to 1; rounded down, but one token at least. The paper has 0.3.

    Raises:
        ValueError: on an unknown role, another share, unequal lengths, or a log-ratio that is no number where there
            is weight.
    """
    if role not in (CHOSEN, REJECTED, MISMATCHED):
        raise ValueError(f"role: expected {CHOSEN}, {REJECTED} or {MISMATCHED}, got {role!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share: expected above 0, at most 1, got {share}")
    if len(log_ratios) != len(weights):
        raise ValueError(f"log_ratios: expected {len(weights)}, one for each weight, got {len(log_ratios)}")
    if role == MISMATCHED:
        return tuple(weights)
    sign = -1 if role == CHOSEN else 1
    ranked = [(sign * log_ratios[place], place) for place, weight in enumerate(weights) if weight]
    if any(math.isnan(rank) for rank, _ in ranked):
        raise ValueError("log_ratios: expected numbers where there is weight, got nan")
    # 0.29 * 100 is a little less than 29.
    count = min(len(ranked), max(1, math.floor(share * len(ranked) + 1e-9)))
    kept = {place for _, place in sorted(ranked)[:count]}
    return tuple(weight if place in kept else 0.0 for place, weight in enumerate(weights))
