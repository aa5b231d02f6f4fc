"""CPO (Xu et al., ICML 2024, arXiv 2401.08417)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Weight, objective


@objective(needs_reference=False)
def cpo(
    batch: Batch, beta: float, nll_weight: Weight = 1.0, normalize: Literal["none", "tokens"] = "none"
) -> torch.Tensor:
    """L_prefer + L_NLL: -log sigmoid(beta (log pi(y_w) - log pi(y_l))) - log pi(y_w); APEFT appendix A (4).

    Args:
        nll_weight: factor of L_NLL; TRL's cpo_alpha.
        normalize: "none": L_NLL is the sum over tokens, as in both papers. "tokens": it is divided by the sum of
            weights; TRL takes the mean over all tokens of a micro-batch, the same where it holds one pair.
    """
    chosen = batch.chosen.averages if normalize == "tokens" else batch.chosen.policy
    return -F.logsigmoid(beta * (batch.chosen.policy - batch.rejected.policy)) - nll_weight * chosen
