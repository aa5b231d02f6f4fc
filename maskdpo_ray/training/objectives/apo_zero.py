"""APO-zero (D'Oosterlinck et al., TACL 2025, "Anchored Preference Optimization", arXiv 2408.06266)."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective()
def apo_zero(batch: Batch, beta: float) -> torch.Tensor:
    """1 - sigmoid(r_w) + sigmoid(r_l), r being the reward beta M: eq. 7.

    Raises the chosen and lowers the rejected response, each by itself: for chosen responses better than the policy's.
    """
    chosen, rejected = beta * batch.chosen.ratios, beta * batch.rejected.ratios
    return 1 - torch.sigmoid(chosen) + torch.sigmoid(rejected)
