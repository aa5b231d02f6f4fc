"""SimPO (Meng, Xia and Chen, NeurIPS 2024, arXiv 2405.14734)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Weight, objective


@objective(needs_reference=False)
def simpo(batch: Batch, beta: float, gamma: Weight = 0.5) -> torch.Tensor:
    """-log sigmoid(beta / |y_w| log pi(y_w) - beta / |y_l| log pi(y_l) - gamma): eq. 6.

    |y| is the sum of the token weights: the tokens that are learned from, not the response's length. The paper's beta
    is 2 and more, far above DPO's. With SePO's token weights (arXiv 2408.13518), gamma 0 and beta 1 this is the loss
    of SePO's authors.

    Args:
        gamma: target margin of the rewards; the paper's is 0.3 to 1.6.
    """
    return -F.logsigmoid(beta * (batch.chosen.averages - batch.rejected.averages) - gamma)
