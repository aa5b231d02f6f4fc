"""IPO (Azar et al., AISTATS 2024, arXiv 2310.12036)."""

from __future__ import annotations

from typing import Literal

import torch

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective()
def ipo(batch: Batch, beta: float, normalize: Literal["none", "tokens"] = "none") -> torch.Tensor:
    """(h - 1 / (2 tau))^2, tau being beta: eq. 17, APEFT appendix A (2). A smaller beta asks for a larger margin h.

    Args:
        normalize: "none": h is the difference of sums over tokens, as in both papers. "tokens": each sum is divided
            by its sum of weights, as TRL does, which reports that the paper's results were made so.
    """
    chosen, rejected = batch.chosen.ratios, batch.rejected.ratios
    if normalize == "tokens":
        chosen, rejected = batch.chosen.per_token(chosen), batch.rejected.per_token(rejected)
    return (chosen - rejected - 1 / (2 * beta)).square()
