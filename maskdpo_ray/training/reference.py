"""Reference log-probs: of many pairs in one array, and on disk, beside the pairs that they belong to.

The file says whose they are: the reference policy's checksum, and a digest of the token ids and of which of them have
weight. So they serve every epoch and every start of a run, and no other model's or pairs' are ever taken for them.

Log-probs of single pairs, as they cross processes and lie on disk, and of a micro-batch, as the loss takes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from maskdpo_ray.errors import RunFolderError, one_line, shown
from maskdpo_ray.records import PairLogps, TrainingExample
from maskdpo_ray.store import files

if TYPE_CHECKING:
    import torch


_TENSOR = "logps"


class ReferenceLogps(Sequence[PairLogps]):
    """Log-probs of pairs, views of one array: 125,000 pairs as arrays of their own would take gigabytes on their way
    to the disk."""

    def __init__(self, flat: np.ndarray, lengths: Sequence[int], checksum: str | None = None) -> None:
        """
        Args:
            flat: [sum of lengths] float32: chosen and rejected response of each pair, one after the other.
            lengths: tokens of each response.
            checksum: the reference policy's, if known.
        """
        self.flat = flat
        self.checksum = checksum
        self._ends = np.fromiter(accumulate(lengths, initial=0), np.int64, len(lengths) + 1)

    @classmethod
    def of(
        cls, examples: Sequence[TrainingExample], logps: Iterable[PairLogps], checksum: str | None = None
    ) -> ReferenceLogps:
        """Take `logps` in, one pair after the other. Raises ValueError unless they have the lengths of `examples`."""
        lengths = _lengths(examples)
        found = cls(np.empty(sum(lengths), np.float32), lengths, checksum)
        for mine, given in zip(found, logps, strict=True):
            for own, side in zip(mine, given, strict=True):
                if own.shape != side.shape:
                    raise ValueError(f"expected log-probs of shape {own.shape}, got {side.shape}")
                own[:] = side
        return found

    def __len__(self) -> int:
        return len(self._ends) // 2

    @overload
    def __getitem__(self, index: int) -> PairLogps: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairLogps]: ...
    def __getitem__(self, index: int | slice) -> PairLogps | list[PairLogps]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, middle, end = self._ends[2 * index : 2 * index + 3]
        return self.flat[start:middle], self.flat[middle:end]


def save(file: Path, examples: Sequence[TrainingExample], logps: ReferenceLogps, checksum: str) -> None:
    """Write one safetensors file: the array, and whose it is.

    `checksum` is the reference policy's. Raises RunFolderError when the file can't be written.
    """
    # One entry: safetensors writes several in any order, and a run's files are to be the same each time.
    metadata = {"of": f"{checksum} {_digest(examples)}"}
    files.write_whole(file, safetensors.numpy.save({_TENSOR: logps.flat}, metadata))


def load(file: Path, examples: Sequence[TrainingExample], checksum: str) -> ReferenceLogps:
    """Read what `save` wrote of `examples`, in the same order.

    Raises RunFolderError when the file is damaged, or the log-probs are another policy's or of other tokens.
    """
    try:
        with safe_open(file, "np") as tensors:
            metadata = tensors.metadata() or {}
            flat = tensors.get_tensor(_TENSOR)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{file}: expected log-probs in safetensors, got: {one_line(error)}") from error
    policy, _, tokens = metadata.get("of", "").partition(" ")
    for what, expected, got in (("policy", checksum, policy), ("tokens", _digest(examples), tokens)):
        if got != expected:
            raise RunFolderError(f"{file}: {what}: expected log-probs of {shown(expected)}, got those of {shown(got)}")
    lengths = _lengths(examples)
    if flat.dtype != np.float32 or flat.shape != (sum(lengths),):
        raise RunFolderError(f"{file}: expected {sum(lengths)} numbers in float32, got {flat.shape} in {flat.dtype}")
    return ReferenceLogps(flat, lengths, checksum)


def _lengths(examples: Sequence[TrainingExample]) -> list[int]:
    return [len(ids) for example in examples for ids in (example.chosen_token_ids, example.rejected_token_ids)]


def _digest(examples: Sequence[TrainingExample]) -> str:
    """SHA-256 over the pairs' tokens, and which of them have weight, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        pair_id = example.pair_id.encode()
        digest.update(f"{len(pair_id)} ".encode() + pair_id)
        for token_ids in (example.prompt_token_ids, example.chosen_token_ids, example.rejected_token_ids):
            digest.update(f"{len(token_ids)} ".encode() + np.asarray(token_ids, np.int64).tobytes())
        for weights in (example.chosen_weights, example.rejected_weights):
            digest.update((np.asarray(weights) != 0).tobytes())
    return digest.hexdigest()


def pad_logps(references: Sequence[PairLogps]) -> torch.Tensor:
    """Reference log-probs as [2B, T] float32, chosen rows first, right-padded with 0 to the longest response."""
    import torch

    rows = [chosen for chosen, _ in references] + [rejected for _, rejected in references]
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float32)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    return padded


def split_logps(logps: np.ndarray, examples: Sequence[TrainingExample]) -> list[PairLogps]:
    """Rows of [2B, T] (chosen first) back to pairs, without padding."""
    half = len(examples)
    return [
        (
            logps[index, : len(example.chosen_token_ids)].copy(),
            logps[half + index, : len(example.rejected_token_ids)].copy(),
        )
        for index, example in enumerate(examples)
    ]
