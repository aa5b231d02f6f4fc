"""Batches for objectives, and objectives such as a user writes."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch

NOT_ONE = 3


def own_margin(batch: Batch, beta: float, margin: float) -> torch.Tensor:
    """Loss of one's own, undecorated: the margin of rewards that is lacking."""
    return margin - beta * (batch.chosen.ratios - batch.rejected.ratios)


def takes_too_little(batch: Batch) -> torch.Tensor:
    """No objective: it takes no beta."""
    return batch.chosen.ratios


def scalar_loss(batch: Batch, beta: float) -> torch.Tensor:
    """Mean in place of one loss for each pair."""
    return own_margin(batch, beta, 1.0).mean()


def no_tensor(batch: Batch, beta: float) -> float:
    """Number in place of a tensor."""
    return float(scalar_loss(batch, beta))
