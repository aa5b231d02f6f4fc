"""Log-probs under the reference: computed once, kept in a file of the iteration, read where they are used.

The file says what it is of: the reference policy's checksum, and a digest of the token ids and of which of them have
weight. So it serves every epoch, rank and start of a run, and never another model or other pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError, safe_open

from maskdpo_ray.errors import RunFolderError, one_line, shown
from maskdpo_ray.records import ResponseLogps, TrainingExample
from maskdpo_ray.store import files
from maskdpo_ray.training.batches import response_rows
from maskdpo_ray.training.example_store import ExampleStore

if TYPE_CHECKING:
    import torch

_TENSOR = "logps"


class ReferenceLogps:
    """Log-probs of the examples of a store, in a file of one float32 array that is read piece by piece."""

    def __init__(self, path: Path, examples: ExampleStore, checksum: str | None = None) -> None:
        """
        Args:
            path: what `save` wrote of `examples`.
            checksum: the reference policy's, if known.

        Raises RunFolderError when the file is damaged.
        """
        self.path, self.checksum = path, checksum
        self._examples = examples
        try:
            self._file = cast(Any, safe_open(path, "np"))  # which has no types
            self.metadata: dict[str, str] = self._file.metadata() or {}
            self._logps = self._file.get_slice(_TENSOR)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{path}: expected log-probs in safetensors, got: {one_line(error)}") from error
        self.shape, self.dtype = self._logps.get_shape(), self._logps.get_dtype()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> ResponseLogps:
        """[response length] float32 of each response. Raises IndexError."""
        example, end = self._examples[index], int(self._examples.response_ends[index])
        logps = self._logps[end - example.num_response_tokens : end]
        lengths = [len(response.token_ids) for response in example.responses]
        return tuple(np.split(logps, np.cumsum(lengths)[:-1]))


def save(path: Path, examples: ExampleStore, logps: Iterable[ResponseLogps], checksum: str) -> ReferenceLogps:
    """Write `logps` of `examples`, in order, as they come: one safetensors file.

    `checksum` is the reference policy's. Raises RunFolderError when the file can't be written, ValueError unless the
    log-probs are as many as the response tokens.
    """
    # Written by hand, as safetensors takes whole arrays only.
    total = _total(examples)
    header = {
        "__metadata__": {"of": f"{checksum} {_digest(examples)}"},
        _TENSOR: {"dtype": "F32", "shape": [total], "data_offsets": [0, 4 * total]},
    }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    try:
        with files.replacing(path) as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for example, of_example in zip(examples, logps, strict=True):
                for response, values in zip(example.responses, of_example, strict=True):
                    if values.shape != (len(response.token_ids),):
                        expected = len(response.token_ids)
                        raise ValueError(f"expected log-probs of {expected} tokens, got shape {values.shape}")
                    file.write(np.asarray(values, "<f4").tobytes())
    except OSError as error:
        raise RunFolderError(f"{path}: can't be written: {error.strerror}") from error
    return ReferenceLogps(path, examples, checksum)


def load(path: Path, examples: ExampleStore, checksum: str) -> ReferenceLogps:
    """Open what `save` wrote of `examples`, in the same order.

    Raises RunFolderError when the file is damaged, or the log-probs are another policy's or of other tokens.
    """
    found = ReferenceLogps(path, examples, checksum)
    policy, _, tokens = found.metadata.get("of", "").partition(" ")
    for what, expected, got in (("policy", checksum, policy), ("tokens", _digest(examples), tokens)):
        if got != expected:
            raise RunFolderError(f"{path}: {what}: expected log-probs of {shown(expected)}, got those of {shown(got)}")
    total = _total(examples)
    if (found.shape, found.dtype) != ([total], "F32"):
        raise RunFolderError(f"{path}: expected {total} numbers in float32, got {found.shape} in {found.dtype}")
    return found


def _total(examples: ExampleStore) -> int:
    """Response tokens."""
    return int(examples.response_ends[-1]) if len(examples) else 0


def _digest(examples: Iterable[TrainingExample]) -> str:
    """SHA-256 over the examples' tokens, and which of them have weight, in their order."""
    digest = hashlib.sha256()

    def update(data: bytes) -> None:
        digest.update(f"{len(data)} ".encode() + data)

    for example in examples:
        update(example.id.encode())
        update(np.asarray(example.prompt_token_ids, np.int64).tobytes())
        for response in example.responses:
            update(np.asarray(response.token_ids, np.int64).tobytes())
            update((np.asarray(response.weights) != 0).tobytes())
    return digest.hexdigest()


def pad_logps(logps: Sequence[ResponseLogps]) -> torch.Tensor:
    """Log-probs as [R, T] float32 in the order of `response_rows`, right-padded with 0 to the longest response."""
    import torch

    rows = [logps[example][place] for example, place in response_rows(list(map(len, logps)))]
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float32)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    return padded


def split_logps(logps: np.ndarray, examples: Sequence[TrainingExample]) -> list[ResponseLogps]:
    """Rows of [R, T], in the order of `response_rows`, back to examples, without padding."""
    found: list[list[np.ndarray]] = [[] for _ in examples]
    rows = response_rows([len(example.responses) for example in examples])
    for values, (example, place) in zip(logps, rows, strict=True):
        found[example].append(values[: len(examples[example].responses[place].token_ids)].copy())
    return [tuple(each) for each in found]
