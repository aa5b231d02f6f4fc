"""DPO-Positive (Pal et al. 2024, "Smaug", arXiv 2402.13228)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Weight, objective


@objective()
def dpop(batch: Batch, beta: float, penalty: Weight = 50.0) -> torch.Tensor:
    """-log sigmoid(beta (M_w - M_l - lambda max(0, -M_w))): DPO that may not make the chosen response less likely.

    Args:
        penalty: lambda; the paper has 50, with a beta of 0.3.
    """
    chosen, rejected = batch.chosen.ratios, batch.rejected.ratios
    return -F.logsigmoid(beta * (chosen - rejected - penalty * torch.relu(-chosen)))
