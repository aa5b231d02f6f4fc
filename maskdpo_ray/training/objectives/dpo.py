"""DPO (Rafailov et al. 2023, arXiv 2305.18290), and with masks Mask-DPO (Gu et al., ICLR 2025, section 2.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Smoothing, objective, sums


@objective()
def dpo(batch: Batch, beta: float, label_smoothing: Smoothing = 0.0) -> torch.Tensor:
    """-log sigmoid(beta M_w - beta M_l): DPO eq. 7, Mask-DPO eq. 6.

    Args:
        label_smoothing: share of pairs whose order is taken for wrong: conservative DPO (Mitchell 2023, "A note on DPO
            with noisy preferences").
    """
    margins = beta * batch.chosen.ratios - beta * batch.rejected.ratios
    return -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)


def masked_dpo_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    weights: torch.Tensor,
    beta: float,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask-DPO's loss of B pairs from the log-probs of tokens; with all weights one it is that of DPO.

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
    responses = sums(policy_logps, reference_logps, weights)
    num_pairs = len(responses) // 2
    batch = Batch(responses[:num_pairs], responses[num_pairs:])
    losses = dpo.losses(batch, beta)
    loss = losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    return loss, dpo.rewards(batch.chosen, beta), dpo.rewards(batch.rejected, beta)


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
