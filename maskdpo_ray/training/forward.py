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
from maskdpo_ray.training.batches import response_rows

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
            # Not in place: of float32 logits the part is a view, and TDPO reads them after this.
            softmax = logits[part].to(gradient.dtype).sub(normalizers[part, None]).exp_()
            within = (rows >= start) & (rows < start + len(softmax))
            softmax.mul_(-of_row[part, None])
            softmax.index_put_((rows[within] - start, targets[within]), gradient[within], accumulate=True)
            result[part] = softmax
        return result, None, None


ALL_SAVINGS = SavingsConfig()


class Pass:
    """One forward pass over the responses of a micro-batch: what goes in, and how log-probs are read off the logits.

    Rows of its results are those of `rows`. The policy and its reference can share a pass, as long as they are one kind
    of model.
    """

    def __init__(
        self,
        model: Any,
        examples: Sequence[TrainingExample],
        device: torch.device | str = "cpu",
        savings: SavingsConfig = ALL_SAVINGS,
    ) -> None:
        """
        Args:
            model: a Hugging Face model, or a DeepSpeed engine around it.
            savings: which work is left out; the result is the same.
        """
        self._device = device
        self.rows = response_rows([len(example.responses) for example in examples])
        """(example, response) of each row."""
        self.roles = [examples[example].responses[place].role for example, place in self.rows]
        """Role of each row's response."""
        self.weights = weight_matrix(examples).to(device)
        """[R, T] float32: token weights, T the longest response."""
        make = _tree if savings.prefix_tree else _padded
        self._inputs = make(getattr(model, "module", model), _sequences(examples, self.rows, savings), device, savings)
        if len(self._inputs.targets) == 0:
            raise ValueError("no token of these examples has weight; such examples are dropped before training")

    def logits(self, model: Callable[..., Any]) -> torch.Tensor:
        """[M, V]: the model's logits at the M positions that predict a token with weight (`savings.head_at_targets`).

        The forward is the Hugging Face model's own (or a DeepSpeed engine around it, so that ZeRO-3's hooks see it).
        As a tree exact for full causal attention only: a window or a recurrent state would see other answers' tokens
        (`ways.py` tells such models). Raises ModelError when the logits are not those asked for.
        """
        inputs = self._inputs
        options = {} if inputs.positions is None else {"logits_to_keep": self._tensor(inputs.positions)}
        if getattr(getattr(model, "module", model).config, "output_router_logits", False):
            options["output_router_logits"] = False  # no loss of a router's is added, nor computed
        logits = model(input_ids=self._tensor(inputs.token_ids), use_cache=False, **options, **inputs.arguments).logits
        num_kept = inputs.token_ids.shape[1] if inputs.positions is None else len(inputs.positions)
        expected = (len(inputs.token_ids), num_kept)
        if tuple(logits.shape[:-1]) != expected:
            raise ModelError(
                f"{type(getattr(model, 'module', model)).__name__}: logits_to_keep: expected logits of {expected[1]} "
                f"positions in each of {expected[0]} rows, got the shape {list(logits.shape)}"
            )
        return logits.flatten(0, 1)

    def logps(self, logits: torch.Tensor) -> torch.Tensor:
        """[R, T] float32 (float64 of a float64 model): log-probs of the responses' tokens, 0 where the weight is 0."""
        return self._placed(
            token_logps(logits, self._tensor(self._inputs.logits_rows), self._tensor(self._inputs.targets))
        )

    def ranks(self, logits: torch.Tensor) -> torch.Tensor:
        """[R, T] int64: rank of each token among all by its logit, 1 for the likeliest; 0 where the weight is 0."""
        rows, targets = self._tensor(self._inputs.logits_rows), self._tensor(self._inputs.targets)
        found = [1 + (logits[row] > logits[row, target]).sum() for row, target in zip(rows, targets, strict=True)]
        return self._placed(torch.stack(found))

    def kls(self, logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
        """[R, T]: KL(reference || policy) over the vocabulary at each token's prediction, 0 where its weight is 0."""
        from maskdpo_ray.training.distribution import token_kls

        return self._placed(token_kls(logits, reference_logits, self._tensor(self._inputs.logits_rows)))

    def _placed(self, values: torch.Tensor) -> torch.Tensor:
        places = self._tensor(self._inputs.rows), self._tensor(self._inputs.columns)
        return torch.zeros(self.weights.shape, dtype=values.dtype, device=self._device).index_put(places, values)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def response_logps(
    model: Callable[..., Any],
    examples: Sequence[TrainingExample],
    device: torch.device | str = "cpu",
    savings: SavingsConfig = ALL_SAVINGS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logps, weights) of the examples' responses in one forward pass, both [R, T]: see `Pass`."""
    forward = Pass(model, examples, device, savings)
    return forward.logps(forward.logits(model)), forward.weights


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


@dataclass(frozen=True)
class _Sequences:
    """One for each response."""

    prompts: list[tuple[int, ...]]
    responses: list[tuple[int, ...]]
    weights: list[tuple[float, ...]]
    owners: list[int]
    """The examples' places."""
    lengths: list[int]
    """Tokens of each that are inputs, at least 1: attention over nothing is not defined."""


def _sequences(
    examples: Sequence[TrainingExample], rows: Sequence[tuple[int, int]], savings: SavingsConfig
) -> _Sequences:
    lengths = [example.input_lengths(savings.cut_tails) for example in examples]
    responses = [examples[example].responses[place] for example, place in rows]
    return _Sequences(
        [examples[example].prompt_token_ids for example, _ in rows],
        [response.token_ids for response in responses],
        [response.weights for response in responses],
        [example for example, _ in rows],
        [max(1, lengths[example][place]) for example, place in rows],
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
    """Token weights as [R, T] float32, right-padded with 0, in the order of `response_rows`."""
    places = response_rows([len(example.responses) for example in examples])
    rows = [examples[example].responses[place].weights for example, place in places]
    matrix = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.float32)
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = torch.tensor(row, dtype=torch.float32)
    return matrix
