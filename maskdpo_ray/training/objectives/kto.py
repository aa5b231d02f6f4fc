"""KTO (Ethayarajh et al., ICML 2024, arXiv 2402.01306)."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch, Weight, objective


@objective(unit="response", needs_means=("mismatched",))
def kto(batch: Batch, beta: float, desirable_weight: Weight = 1.0, undesirable_weight: Weight = 1.0) -> torch.Tensor:
    """lambda_y - v(x, y) of single responses, the chosen being desirable: section 4, APEFT appendix A (3).

    z_0 is the paper's estimate of KL(pi_theta || pi_ref): the mean log-ratio of answers to other questions, at
    least 0, without gradient.

    Args:
        desirable_weight: lambda_D. The paper asks for lambda_D n_D / (lambda_U n_U) of 1 to 4/3, n being the numbers of
            desirable and undesirable responses.
        undesirable_weight: lambda_U.
    """
    z_0 = batch.mean("mismatched").clamp(min=0)
    desirable = 1 - torch.sigmoid(beta * (batch.chosen.ratios - z_0))
    undesirable = 1 - torch.sigmoid(beta * (z_0 - batch.rejected.ratios))
    return torch.cat([desirable_weight * desirable, undesirable_weight * undesirable])
