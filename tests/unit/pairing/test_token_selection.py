"""SePO's selection of tokens: a top or bottom share of those with weight, the same on every call."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.pairing.token_selection import selected_weights

RATIOS = (0.5, -1.0, 2.0, 0.0, 1.0, -3.0, 0.25, -0.5, 1.5, -2.0)


def test_the_paper_on_ten_tokens() -> None:
    """SePO with the share of .3: the top three in the chosen, the lowest three in the rejected response."""
    ones = [1.0] * 10
    assert np.flatnonzero(selected_weights(RATIOS, ones, "chosen", 0.3)).tolist() == [2, 4, 8]
    assert np.flatnonzero(selected_weights(RATIOS, ones, "rejected", 0.3)).tolist() == [1, 5, 9]


def test_masks_and_selections_multiply() -> None:
    """Masked tokens use up none of the share, and fractions stay as they are."""
    weights = (1.0, 1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0, 1.0)
    found = selected_weights(RATIOS, weights, "chosen", 0.25)
    assert found == (1.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_of_equal_tokens_the_first_are_taken() -> None:
    for role in ("chosen", "rejected"):
        assert selected_weights([1.0] * 6, [1.0] * 6, role, 0.5) == (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(100, 0.29, 29), (3, 0.3, 1), (7, 0.5, 3), (7, 1.0, 7), (0, 0.3, 0)]
)
def test_the_share_is_rounded_down_but_one_token_stays(count: int, share: float, kept: int) -> None:
    found = selected_weights([float(i) for i in range(count)], [1.0] * count, "chosen", share)
    assert found == (0.0,) * (count - kept) + (1.0,) * kept


def test_a_mismatched_response_keeps_its_weights() -> None:
    assert selected_weights(RATIOS, [0.5] * 10, "mismatched", 0.1) == (0.5,) * 10


def test_what_stands_at_weight_zero_is_not_read() -> None:
    assert selected_weights([math.nan, 1.0, 2.0], [0.0, 1.0, 1.0], "rejected", 0.5) == (0.0, 1.0, 0.0)


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.sampled_from([0.0, 0.5, 1.0])), max_size=30),
    st.sampled_from(["chosen", "rejected"]),
    st.floats(0.01, 1),
)
def test_no_dropped_token_ranks_above_a_kept_one(tokens: list[tuple[float, float]], role: str, share: float) -> None:
    ratios, weights = [ratio for ratio, _ in tokens], [weight for _, weight in tokens]
    found = selected_weights(ratios, weights, role, share)
    sign = 1 if role == "chosen" else -1
    kept = [sign * ratio for ratio, weight in zip(ratios, found, strict=True) if weight]
    left = [sign * r for r, before, after in zip(ratios, weights, found, strict=True) if before and not after]
    assert not left or min(kept) >= max(left)
    assert all(after in (0.0, before) for before, after in zip(weights, found, strict=True))
    assert bool(kept) == any(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0], "judge", 0.3), "role: expected chosen, rejected or mismatched, got 'judge'"),
        (([1.0], [1.0], "chosen", 0.0), "share: expected above 0, at most 1, got 0.0"),
        (([1.0], [1.0], "chosen", math.nan), "share: expected above 0, at most 1, got nan"),
        (([1.0], [1.0, 1.0], "chosen", 0.3), "log_ratios: expected 2, one for each weight, got 1"),
        (([math.nan], [1.0], "chosen", 0.3), "log_ratios: expected numbers where there is weight, got nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[list[float], list[float], str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selected_weights(*arguments)
