"""Rounding of merged weights to bfloat16, by chance."""

from __future__ import annotations

import torch

from maskdpo_ray.training import rounding


def test_stochastic_rounding_keeps_the_mean() -> None:
    """Each number becomes one of its two bfloat16 neighbours, in proportion to nearness; bfloat16 numbers stay."""
    exact = torch.tensor([1.0, 1.001, -1.001, 3e-5, -0.3, 0.0, 200.3])
    rounded = torch.stack([rounding.stochastic(exact, "bfloat16", str(seed)) for seed in range(4000)])
    assert torch.equal(rounded, rounded.bfloat16().float())
    below, above = rounded.min(0).values, rounded.max(0).values
    assert (below <= exact).all() and (exact <= above).all()
    gap = above - below
    assert torch.equal(gap == 0, exact == exact.bfloat16().float())
    assert ((rounded.mean(0) - exact).abs() <= 0.04 * gap).all()  # five standard deviations
    assert torch.equal(rounding.stochastic(exact, "float32", "0"), exact)
    assert torch.equal(rounding.stochastic(exact, "bfloat16", "0"), rounding.stochastic(exact, "bfloat16", "0"))
