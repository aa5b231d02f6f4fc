"""NCA on pairs (Chen et al., NeurIPS 2024, "Noise Contrastive Alignment", arXiv 2402.05369)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective()
def nca_pair(batch: Batch, beta: float) -> torch.Tensor:
    """-log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2, s being the sigmoid and r the reward beta M.

    The pairwise form of its loss: each response is told from noise by itself, so that the chosen one's likelihood is
    kept up.
    """
    chosen, rejected = beta * batch.chosen.ratios, beta * batch.rejected.ratios
    return -F.logsigmoid(chosen) - F.logsigmoid(-chosen) / 2 - F.logsigmoid(-rejected) / 2
