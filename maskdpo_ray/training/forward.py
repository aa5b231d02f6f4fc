"""Per-token log-probs of responses under a causal language model, at the tokens that have weight.

They are read off the logits without a float32 copy of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import prefix_tree, tree_attention

_ROWS_AT_A_TIME = 128
"""Rows of logits that exist in float32 at a time."""


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


ALL_SAVINGS = SavingsConfig()


@dataclass(frozen=True)
class _Inputs:
    """One forward pass: R rows of N tokens, whose outputs at M positions give the logits that Q targets need."""

    arguments: dict[str, Any]
    """Arguments of the model's forward besides the tokens and positions below."""
    token_ids: np.ndarray
    """[R, N] int64."""
    positions: np.ndarray | None
    """[M] int64, of each row; None: all N."""
    logits_rows: np.ndarray
    """[Q] int64: which of the R * M rows of logits predicts target q."""
    targets: np.ndarray
    """[Q] int64: token ids."""
    rows: np.ndarray
    """[Q] int64: the sequence that target q belongs to."""
    columns: np.ndarray
    """[Q] int64: where in its response."""


def response_logps(
    model: Callable[..., Any],
    examples: Sequence[TrainingExample],
    device: torch.device | str = "cpu",
    savings: SavingsConfig = ALL_SAVINGS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of B pairs in one forward pass.

    The forward is the Hugging Face model's own (or a DeepSpeed engine around it, so that ZeRO-3's
    hooks see it). Exact for full causal attention only: a sliding window or a recurrent state would see other answers'
    tokens (`models/folder.py` refuses such models).

    Args:
        savings: which work is left out; the result is the same.

    Returns:
        (logps, weights), both [2B, T] on `device`, float32 (logps float64 for a float64 model), rows 0..B-1 chosen
        and B..2B-1 rejected, T the longest response. `logps` is 0 where the weight is 0.

    Raises ModelError when the model's logits are not those asked for.
    """
    weights = weight_matrix(examples).to(device)
    make = _tree if savings.prefix_tree else _padded
    inputs = make(getattr(model, "module", model), _sequences(examples, savings), device, savings)
    if len(inputs.targets) == 0:
        raise ValueError("no token of these pairs has weight; such pairs are dropped before training")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    keep = {} if inputs.positions is None else {"logits_to_keep": tensor(inputs.positions)}
    logits = model(input_ids=tensor(inputs.token_ids), use_cache=False, **keep, **inputs.arguments).logits
    expected = (len(inputs.token_ids), inputs.token_ids.shape[1] if inputs.positions is None else len(inputs.positions))
    if tuple(logits.shape[:-1]) != expected:
        raise ModelError(
            f"{type(getattr(model, 'module', model)).__name__}: logits_to_keep: expected logits of {expected[1]} "
            f"positions in each of {expected[0]} rows, got the shape {list(logits.shape)}"
        )
    values = token_logps(logits.flatten(0, 1), tensor(inputs.logits_rows), tensor(inputs.targets))
    logps = torch.zeros(weights.shape, dtype=values.dtype, device=device)
    return logps.index_put((tensor(inputs.rows), tensor(inputs.columns)), values), weights


@dataclass(frozen=True)
class _Sequences:
    """2B of them, chosen first."""

    prompts: list[tuple[int, ...]]
    responses: list[tuple[int, ...]]
    weights: list[tuple[float, ...]]
    owners: list[int]
    """The pairs' numbers."""
    lengths: list[int]
    """Tokens of each that are inputs, at least 1: attention over nothing is not defined."""


def _sequences(examples: Sequence[TrainingExample], savings: SavingsConfig) -> _Sequences:
    lengths = [example.input_lengths(savings.cut_tails) for example in examples]
    return _Sequences(
        [example.prompt_token_ids for example in examples] * 2,
        [e.chosen_token_ids for e in examples] + [e.rejected_token_ids for e in examples],
        [e.chosen_weights for e in examples] + [e.rejected_weights for e in examples],
        list(range(len(examples))) * 2,
        [max(1, chosen) for chosen, _ in lengths] + [max(1, rejected) for _, rejected in lengths],
    )


def _tree(model: Any, sequences: _Sequences, device: torch.device | str, savings: SavingsConfig) -> _Inputs:
    """All sequences as one row that holds what they share once."""
    tree = prefix_tree.build(
        sequences.prompts, sequences.responses, sequences.weights, sequences.owners, savings.cut_tails
    )
    positions, logits_rows = None, tree.nodes
    if savings.head_at_targets:
        positions, logits_rows = np.unique(tree.nodes, return_inverse=True)
    depths = torch.from_numpy(tree.depths).to(device)[None]
    arguments = {"position_ids": depths, **tree_attention.arguments(model, tree, device)}
    return _Inputs(arguments, tree.token_ids[None], positions, logits_rows, tree.targets, tree.rows, tree.columns)


def _padded(model: Any, sequences: _Sequences, device: torch.device | str, savings: SavingsConfig) -> _Inputs:
    """A row for each sequence, padded on the right."""
    width = max(sequences.lengths)
    token_ids = np.zeros((len(sequences.lengths), width), dtype=np.int64)
    mask = np.zeros_like(token_ids)
    found = []
    for row, length in enumerate(sequences.lengths):
        prompt, response = sequences.prompts[row], np.asarray(sequences.responses[row], dtype=np.int64)
        token_ids[row, :length] = [*prompt, *response][:length]
        mask[row, :length] = 1
        columns = np.flatnonzero(np.asarray(sequences.weights[row]))
        found.append(np.stack([np.full(len(columns), row), columns, columns + len(prompt) - 1, response[columns]]))
    rows, columns, places, targets = np.concatenate(found, axis=1)
    positions = np.unique(places) if savings.head_at_targets else None
    if positions is None:
        logits_rows = rows * width + places
    else:
        logits_rows = rows * len(positions) + np.searchsorted(positions, places)
    arguments = {"attention_mask": torch.from_numpy(mask).to(device)}
    return _Inputs(arguments, token_ids, positions, logits_rows, targets, rows, columns)


def weight_matrix(examples: Sequence[TrainingExample]) -> torch.Tensor:
    """Token weights as [2B, T] float32, right-padded with 0, chosen rows first."""
    rows = [e.chosen_weights for e in examples] + [e.rejected_weights for e in examples]
    matrix = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.float32)
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = torch.tensor(row, dtype=torch.float32)
    return matrix
