"""KTO on pairs, as APEFT's appendix A (3) used it: the loss `kto_pair` that TRL once had."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective(unit="response", needs_means=("chosen", "rejected"))
def kto_pair(batch: Batch, beta: float) -> torch.Tensor:
    """1 - v(x, y) of both responses, z of one role being the mean log-ratio of the other, at least 0.

    Here the means are over the global batch and without gradient, as KTO (arXiv 2402.01306) has its z_0; TRL's were
    over a micro-batch, and had one.
    """
    chosen_mean, rejected_mean = batch.mean("chosen").clamp(min=0), batch.mean("rejected").clamp(min=0)
    desirable = 1 - torch.sigmoid(beta * (batch.chosen.ratios - rejected_mean))
    undesirable = 1 - torch.sigmoid(beta * (chosen_mean - batch.rejected.ratios))
    return torch.cat([desirable, undesirable])
