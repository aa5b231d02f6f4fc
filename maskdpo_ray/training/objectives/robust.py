"""Robust DPO (Chowdhury, Kini and Natarajan, ICML 2024, arXiv 2403.00409)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Smoothing, objective


@objective()
def robust(batch: Batch, beta: float, label_smoothing: Smoothing = 0.1) -> torch.Tensor:
    """Loss whose mean over wrong labels is that of DPO on right ones: ((1 - e) L(w, l) - e L(l, w)) / (1 - 2e).

    Args:
        label_smoothing: e, the share of pairs whose order is taken for wrong. At 0 this is DPO.
    """
    margins = beta * batch.chosen.ratios - beta * batch.rejected.ratios
    as_given, flipped = -F.logsigmoid(margins), -F.logsigmoid(-margins)
    return ((1 - label_smoothing) * as_given - label_smoothing * flipped) / (1 - 2 * label_smoothing)
