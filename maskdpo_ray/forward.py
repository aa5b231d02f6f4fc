"""Per-token log-probs of responses under a causal language model, at the tokens that have weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from maskdpo_ray import prefix_tree
from maskdpo_ray.batching import TrainingExample

# Rows of logits turned into log-probs at a time: bounds the fp32 copy of [rows, vocabulary].
_ROWS_AT_A_TIME = 512


def response_logps(
    model: Callable[..., Any], examples: Sequence[TrainingExample], device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of B pairs through one prefix tree.

    The forward is the Hugging Face model's own (or a DeepSpeed engine around it, so that ZeRO-3's
    hooks see it), and its head runs only where a next token has weight. Exact for full causal attention only:
    a sliding window or a recurrent state would see other answers' tokens (`model_folder` refuses such models).

    Returns:
        (logps, weights), both [2B, T] on `device`, float32 (logps float64 for a float64 model), rows 0..B-1 chosen
        and B..2B-1 rejected, T the longest response. `logps` is 0 where the weight is 0.
    """
    prompts = [example.prompt_token_ids for example in examples] * 2
    responses = [e.chosen_token_ids for e in examples] + [e.rejected_token_ids for e in examples]
    weights = weight_matrix(examples).to(device)
    tree = prefix_tree.build(
        prompts, responses, [e.chosen_weights for e in examples] + [e.rejected_weights for e in examples]
    )
    if len(tree.targets) == 0:
        raise ValueError("no token of these pairs has weight; such pairs are dropped before training")
    keep, rows_of_targets = np.unique(tree.nodes, return_inverse=True)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    logits = model(
        input_ids=tensor(tree.token_ids)[None],
        attention_mask=tensor(tree.visible)[None, None],
        position_ids=tensor(tree.depths)[None],
        logits_to_keep=tensor(keep),
        use_cache=False,
    ).logits[0]
    values = gather_logps(logits, tensor(rows_of_targets), tensor(tree.targets))
    logps = torch.zeros(weights.shape, dtype=values.dtype, device=device)
    return logps.index_put((tensor(tree.rows), tensor(tree.columns)), values), weights


def gather_logps(logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits[rows])[targets], in float32 or better.

    Args:
        logits: [M, V] of any float dtype.
        rows: [Q] int64 into M.
        targets: [Q] int64 into V.

    Returns:
        [Q] float32, or float64 for float64 logits.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    normalizers = torch.cat([part.to(dtype).logsumexp(-1) for part in logits.split(_ROWS_AT_A_TIME)])
    return logits[rows, targets].to(dtype) - normalizers[rows]


def weight_matrix(examples: Sequence[TrainingExample]) -> torch.Tensor:
    """Token weights as [2B, T] float32, right-padded with 0, chosen rows first."""
    rows = [e.chosen_weights for e in examples] + [e.rejected_weights for e in examples]
    matrix = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.float32)
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = torch.tensor(row, dtype=torch.float32)
    return matrix
