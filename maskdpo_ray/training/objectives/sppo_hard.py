"""SPPO with hard labels (Wu et al., ICLR 2025, arXiv 2405.00675)."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective()
def sppo_hard(batch: Batch, beta: float) -> torch.Tensor:
    """(M_w - 1 / (2 beta))^2 + (M_l + 1 / (2 beta))^2: eq. 4.7, eta being 1 / beta and the chosen winning for certain.

    Beta scales inversely: M is asked to come to 1 / (2 beta), 5 at a beta of 0.1.
    """
    half = 1 / (2 * beta)
    return (batch.chosen.ratios - half).square() + (batch.rejected.ratios + half).square()
