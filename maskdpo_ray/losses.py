"""Mask-DPO's objective (arXiv 2503.02846, section 2.2) on per-token log-probs."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F

Reduction = Literal["mean", "sum", "none"]


def masked_dpo_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    weights: torch.Tensor,
    beta: float,
    *,
    reduction: Reduction = "mean",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The masked DPO loss of B preference pairs (Mask-DPO eq. 5-6); plain DPO when all weights are 1.

    Rows 0..B-1 hold the chosen responses, rows B..2B-1 the rejected ones in the same order (OpenRLHF's
    concatenated batch). Positions of weight 0 (masked sentences, padding) are left out: whatever the
    log-probs hold there, NaN and infinity included, loss and gradients do not depend on it, and the
    gradient at them is exactly 0.

    Args:
        policy_logps: [2B, T], floating point, log pi_theta of each response token, in nats.
        reference_logps: [2B, T], the same under the reference policy; gets no gradient.
        weights: [2B, T], weight of each token: eq. 5's indicator, or a fraction for soft masks.
        beta: strength of the KL regularization, > 0.
        reduction: "mean" or "sum" over the pairs, or "none".

    Returns:
        loss: scalar, or [B] with reduction "none". float32, or float64 when `policy_logps` is.
        chosen_rewards, rejected_rewards: [B], beta times the masked sums of eq. 5, detached.

    Raises:
        ValueError: when the shapes differ or are not [2B, T] with B >= 1, beta is not a positive finite
            number, or the reduction is unknown.
    """
    shape = policy_logps.shape
    if len(shape) != 2 or shape[0] == 0 or shape[0] % 2:
        raise ValueError(f"policy_logps: expected [2B, T], chosen rows, then rejected, got {list(shape)}")
    for name, tensor in (("reference_logps", reference_logps), ("weights", weights)):
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)} as policy_logps, got {list(tensor.shape)}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta: expected a positive number, got {beta}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction: expected one of {', '.join(get_args(Reduction))}, got {reduction!r}")

    # Sums over hundreds of tokens lose digits in bf16.
    dtype = torch.promote_types(policy_logps.dtype, torch.float32)
    weights = weights.detach().to(dtype)
    log_ratios = policy_logps.to(dtype) - reference_logps.detach().to(dtype)
    # Selected before it is multiplied: 0 * NaN and 0 * inf are NaN, in the gradient too.
    log_ratios = torch.where(weights != 0, log_ratios, torch.zeros_like(log_ratios))
    # Eq. 5: M_w (chosen rows) and M_l (rejected rows), sums and not means over the kept tokens.
    chosen, rejected = (weights * log_ratios).sum(dim=-1).chunk(2)
    # Eq. 6, with DPO's minus sign (eq. 2).
    losses = -F.logsigmoid(beta * chosen - beta * rejected)
    loss = {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}[reduction](losses)
    return loss, beta * chosen.detach(), beta * rejected.detach()
