"""What an iteration's pairs teach, kept in a file without a name: 125,000 pairs as objects would take gigabytes."""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.pairs import mixture
from maskdpo_ray.records import PreferencePair
from maskdpo_ray.training.batches import TrainingExample

_IN_MEMORY = 2**24
"""Bytes; more of them go to the disk."""


class Lessons(Sequence[TrainingExample]):
    """Examples in the order of their ids, whatever the order in which they were added. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """The file goes where `folder` is, which must be there."""
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115
        self._ids: list[str] = []
        self._starts = array("Q")
        self._sizes = array("I")
        """Of prompt, chosen and rejected answer, tokens; three for each example."""
        self._order: list[int] | None = None
        self._mixture: Counter[str] = Counter()

    def add(self, pair: PreferencePair, example: TrainingExample) -> None:
        """Keep what `pair` teaches. Raises RunFolderError when the disk is full."""
        answers = (example.chosen_token_ids, example.rejected_token_ids)
        tokens = array("q", (*example.prompt_token_ids, *answers[0], *answers[1]))
        weights = array("d", (*example.chosen_weights, *example.rejected_weights))
        try:
            self._file.seek(0, 2)
            self._starts.append(self._file.tell())
            self._file.write(tokens.tobytes() + weights.tobytes())
        except OSError as error:
            raise RunFolderError(f"{self._folder}: can't be written: {error.strerror}") from error
        self._ids.append(example.pair_id)
        self._sizes.extend((len(example.prompt_token_ids), len(answers[0]), len(answers[1])))
        self._mixture.update(mixture([pair]))
        self._order = None

    def mixture(self) -> dict[str, float]:
        """`pairs.mixture` of all pairs."""
        return {name: self._mixture[name] / max(len(self), 1) for name in mixture([])}

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> TrainingExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingExample]: ...
    def __getitem__(self, index: int | slice) -> TrainingExample | list[TrainingExample]:
        if self._order is None:
            self._order = sorted(range(len(self)), key=self._ids.__getitem__)
        if isinstance(index, slice):
            return [self._read(number) for number in self._order[index]]
        return self._read(self._order[index])

    def __iter__(self) -> Iterator[TrainingExample]:
        return (self[index] for index in range(len(self)))

    def _read(self, number: int) -> TrainingExample:
        prompt, chosen, rejected = self._sizes[3 * number : 3 * number + 3]
        num_tokens, num_weights = prompt + chosen + rejected, chosen + rejected
        self._file.seek(self._starts[number])
        data = self._file.read(8 * (num_tokens + num_weights))
        tokens = tuple(np.frombuffer(data, np.int64, num_tokens).tolist())
        weights = tuple(np.frombuffer(data, np.float64, num_weights, 8 * num_tokens).tolist())
        return TrainingExample(
            pair_id=self._ids[number],
            prompt_token_ids=tokens[:prompt],
            chosen_token_ids=tokens[prompt : prompt + chosen],
            rejected_token_ids=tokens[prompt + chosen :],
            chosen_weights=weights[:chosen],
            rejected_weights=weights[chosen:],
        )
