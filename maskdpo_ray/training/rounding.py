"""Rounding of merged weights."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stochastic(exact: torch.Tensor, dtype: str, seed: str) -> torch.Tensor:
    """Round `exact` (float32) to `dtype`; to bfloat16 stochastically (arXiv 1502.02551, section 3), so that the mean is
    exact.

    An adapter's update to a weight is mostly less than half the distance to the next bfloat16 number: rounding to
    nearest would give the old weight back and lose up to half of what was learned.
    """
    import torch

    if dtype != "bfloat16":
        return exact
    generator = torch.Generator(exact.device).manual_seed(zlib.crc32(seed.encode()))
    bits = exact.contiguous().view(torch.int32)
    # A bfloat16 is the upper half of a float32's bits: the lower half is the probability of rounding up.
    bits = bits + torch.randint(2**16, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    return (bits & ~0xFFFF).view(torch.float32)
