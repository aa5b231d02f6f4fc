"""TDPO2 (Zeng et al., ICML 2024, "Token-level Direct Preference Optimization", arXiv 2404.11999)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Weight, objective


@objective(needs_kl=True)
def tdpo(batch: Batch, beta: float, alpha: Weight = 0.5) -> torch.Tensor:
    """-log sigmoid(u - alpha delta_2): u is DPO's margin, delta_2 = beta D(y_l) - sg(beta D(y_w)).

    D is the sequential KL divergence, the sum of KL(pi_ref || pi_theta) over the vocabulary at each token with weight;
    sg stops the gradient, so that the chosen response's divergence is a baseline and not a goal.

    Args:
        alpha: how much the divergences count.
    """
    margins = batch.chosen.ratios - batch.rejected.ratios
    return -F.logsigmoid(beta * (margins - alpha * (batch.rejected.kl - batch.chosen.kl.detach())))
