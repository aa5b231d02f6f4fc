"""RSO's hinge loss (Liu et al., ICLR 2024, arXiv 2309.06657), as APEFT's appendix A (5) has it."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective()
def hinge(batch: Batch, beta: float) -> torch.Tensor:
    """max(0, 1 - (beta M_w - beta M_l)): APEFT's L_rso, whose gamma is beta and whose pi_st is the reference."""
    return torch.relu(1 - beta * (batch.chosen.ratios - batch.rejected.ratios))
