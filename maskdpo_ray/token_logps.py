"""log softmax of logits at given tokens, without a float32 copy of all logits."""

from __future__ import annotations

from typing import Any

import torch

_ROWS_AT_A_TIME = 128
"""Rows of logits that are there in float32 together."""


def token_logps(logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits[rows])[targets], computed in float32 or better, and so is its gradient.

    Args:
        logits: [M, V] of any float dtype.
        rows: [Q] int64 into M.
        targets: [Q] int64 into V.

    Returns:
        [Q] float32, or float64 for float64 logits.
    """
    return _TokenLogps.apply(logits, rows, targets)


class _TokenLogps(torch.autograd.Function):
    """Autograd would keep logits in float32, and softmax in float32 beside them."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        normalizers = torch.cat([part.to(dtype).logsumexp(-1) for part in logits.split(_ROWS_AT_A_TIME)])
        ctx.save_for_backward(logits, rows, targets, normalizers)
        return logits[rows, targets].to(dtype) - normalizers[rows]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """d logp_q / d logits[m] = onehot(target_q) - softmax(logits[m]), where m is q's row."""
        logits, rows, targets, normalizers = ctx.saved_tensors
        of_row = torch.zeros_like(normalizers).index_add_(0, rows, gradient)
        result = torch.empty_like(logits)
        for start in range(0, len(logits), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            softmax = logits[part].to(gradient.dtype).sub_(normalizers[part, None]).exp_()
            within = (rows >= start) & (rows < start + len(softmax))
            softmax.mul_(-of_row[part, None])
            softmax.index_put_((rows[within] - start, targets[within]), gradient[within], accumulate=True)
            result[part] = softmax
        return result, None, None
