"""Divergence of the policy's next-token distribution from the reference's, at the tokens that have weight (TDPO).

Like `forward.token_logps`, it is read off the logits without a float32 copy of all of them.
"""

from __future__ import annotations

from typing import Any

import torch

from maskdpo_ray.errors import ModelError

_ROWS_AT_A_TIME = 128
"""Rows of logits that exist in float32 at a time."""


def token_kls(logits: torch.Tensor, reference_logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """KL(pi_ref || pi_theta) = sum_v pi_ref(v) (log pi_ref(v) - log pi_theta(v)), in float32 or better.

    A term of TDPO's sequential divergence (Zeng et al. 2024, arXiv 2404.11999), over the whole vocabulary. What the
    reference gives no probability (logits of -inf) counts nothing.

    Args:
        logits: [M, V] of any float dtype, the policy's; the gradient is theirs.
        reference_logits: [M, V], the reference's at the same positions; they get no gradient.
        rows: [Q] int64 into M, one for each target token.

    Returns:
        [Q] float32, or float64 for float64 logits.

    Raises ModelError when the two differ in shape.
    """
    if logits.shape != reference_logits.shape:
        expected, got = list(logits.shape), list(reference_logits.shape)
        raise ModelError(
            f"the reference's logits: expected the policy's positions and vocabulary, {expected}, got {got}"
        )
    return _TokenKls.apply(logits, reference_logits, rows)


class _TokenKls(torch.autograd.Function):
    """Autograd would keep both distributions in float32, and their product beside them."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, reference_logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        used, of_used = rows.unique(return_inverse=True)
        dtype = torch.promote_types(torch.promote_types(logits.dtype, reference_logits.dtype), torch.float32)
        parts = []
        for some in used.split(_ROWS_AT_A_TIME):
            own, reference = logits[some].to(dtype).log_softmax(-1), reference_logits[some].to(dtype).log_softmax(-1)
            terms = reference.sub(own).mul_(reference.exp_())
            parts.append(terms.masked_fill_(reference == 0, 0).sum(-1))  # 0 * -inf is nan
        ctx.save_for_backward(logits, reference_logits, used, of_used)
        return torch.cat([logits.new_empty(0, dtype=dtype), *parts])[of_used]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """d KL_q / d logits[m] = softmax(logits[m]) - softmax(reference_logits[m]), where m is q's row."""
        logits, reference_logits, used, of_used = ctx.saved_tensors
        of_row = gradient.new_zeros(len(used)).index_add_(0, of_used, gradient)
        result = torch.zeros_like(logits)
        for some, slopes in zip(used.split(_ROWS_AT_A_TIME), of_row.split(_ROWS_AT_A_TIME), strict=True):
            part = logits[some].to(gradient.dtype).softmax(-1)
            part.sub_(reference_logits[some].to(gradient.dtype).softmax(-1)).mul_(slopes[:, None])
            result[some] = part.to(result.dtype)
        return result, None, None
