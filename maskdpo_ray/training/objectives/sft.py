"""Supervised fine-tuning on the chosen responses."""

from __future__ import annotations

import torch

from maskdpo_ray.training.objectives.protocol import Batch, objective


@objective(unit="chosen response", needs_reference=False)
def sft(batch: Batch, beta: float) -> torch.Tensor:
    """Negative mean log-likelihood of a chosen response's tokens; beta is not read, nor are rejected responses.

    The mean is over a response's token weights, so that each response counts the same; TRL's is over all tokens of a
    micro-batch, the same where it holds one response. `sft_weight` adds this loss to other objectives, as in RPO
    (Pang et al. 2024, arXiv 2404.19733, eq. 1).
    """
    return -batch.chosen.averages
