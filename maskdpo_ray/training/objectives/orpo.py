"""ORPO (Hong, Lee and Thorne, EMNLP 2024, arXiv 2403.07691)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maskdpo_ray.training.objectives.protocol import Batch, Responses, objective


@objective(needs_reference=False)
def orpo(batch: Batch, beta: float) -> torch.Tensor:
    """L_SFT + lambda L_OR, lambda being beta: eq. 6 and 7; the likelihood of a response is the mean of its tokens'.

    The mean is over the token weights, and L_SFT is that of the response; TRL's is over the prompt's tokens, too.
    """
    log_odds = _log_odds(batch.chosen) - _log_odds(batch.rejected)
    return -batch.chosen.averages - beta * F.logsigmoid(log_odds)


def _log_odds(responses: Responses) -> torch.Tensor:
    """log(p / (1 - p)), p being the geometric mean of the tokens' probabilities (eq. 3 and 4)."""
    averages = responses.averages
    # Odds of a certain response would be infinite, and 0 times their gradient nan.
    averages = averages.clamp(max=-torch.finfo(averages.dtype).eps)
    return averages - torch.log(-torch.expm1(averages))
