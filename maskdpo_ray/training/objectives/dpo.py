"""Mask-DPO's objective (Gu et al., ICLR 2025, section 2.2, eq. 5-6) on per-token log-probs."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F


def masked_dpo_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    weights: torch.Tensor,
    beta: float,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss of B pairs; with all weights one it is that of DPO (arXiv 2305.18290, eq. 7).

    Args:
        policy_logps: [2B, T] float, log pi_theta of each response token; rows 0..B-1 are the chosen
            responses and B..2B-1 the rejected ones, in the same order. What stands where the weight
            is 0 (padding, masked tokens) is not read, -inf and nan included.
        reference_logps: [2B, T] float, log pi_ref of the same tokens.
        weights: [2B, T] float, at least 0: the indicators of eq. 5, or fractions of them.
        beta: above 0.
        reduction: "mean" over pairs, "sum", or "none" for [B]. Ranks and micro-batches of unequal
            size take "sum" and divide by the pairs of the global batch.

    Returns:
        (loss, chosen_rewards, rejected_rewards): the loss, scalar or [B]; the rewards, beta M_w and
        beta M_l, [B], without gradient. float32, or float64 when the log-probs are.

    Raises:
        ValueError: on a shape, dtype, beta or reduction other than these.
    """
    _check(policy_logps, reference_logps, weights, beta, reduction)
    # bf16 sums over hundreds of tokens would lose the small differences that DPO learns from.
    dtype = torch.promote_types(torch.promote_types(policy_logps.dtype, reference_logps.dtype), torch.float32)
    weights = weights.to(dtype)
    # Selected before they are weighed: 0 * -inf is nan, and so would be its gradient.
    log_ratios = torch.where(weights != 0, policy_logps.to(dtype) - reference_logps.to(dtype), 0.0)
    # Eq. 5: M_w (upper half) and M_l (lower half), sums over the tokens of the kept sentences.
    masked_log_ratios = (weights * log_ratios).sum(dim=-1)
    chosen, rejected = masked_log_ratios.chunk(2)
    losses = -F.logsigmoid(beta * chosen - beta * rejected)  # Eq. 6
    loss = losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    return loss, (beta * chosen).detach(), (beta * rejected).detach()


def loss_at_reference(beta: float) -> float:
    """Loss of a pair whose log-probs under policy and reference are equal: log 2."""
    zeros = torch.zeros(2, 1)
    return masked_dpo_loss(zeros, zeros, torch.ones(2, 1), beta)[0].item()


def _check(
    policy_logps: torch.Tensor, reference_logps: torch.Tensor, weights: torch.Tensor, beta: float, reduction: str
) -> None:
    tensors = {"policy_logps": policy_logps, "reference_logps": reference_logps, "weights": weights}
    shape = list(policy_logps.shape)
    for name, tensor in tensors.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: expected {shape} as policy_logps, got {list(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: expected floats, got {tensor.dtype}")
    if len(shape) != 2 or shape[0] == 0 or shape[0] % 2:
        raise ValueError(f"policy_logps: expected [2B, T] with B at least 1, got {shape}")
    if not beta > 0:
        raise ValueError(f"beta: expected above 0, got {beta}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected mean, sum or none, got {reduction!r}")
