"""The training examples of one iteration in one file: the driver writes it once, every rank reads it.

A call to a rank names the file, and examples by index. Driver and ranks share a file system, as for checkpoints and
policies; Ray's object store would hold gigabytes of a large iteration in memory. Reads go through the kernel's page
cache, which the ranks of a node share and which counts as no process's own: an example is an object only while it is
used.

Layout: a msgpack record for each example, in the order of arrival; the index, in the order of training; the size of
all records.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import msgspec
import numpy as np

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import TrainingExample

_NAME = "examples.bin"
_COLUMNS = 5
"""Numbers of an example in the index, int64: start and size of its record, tokens, response tokens, those with weight.
"""
_SIZE_BYTES = 8
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TrainingExample).decode


class ExampleStore(Sequence[TrainingExample]):
    """Examples in the file that an `ExampleWriter` has finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        end = os.stat(self._file.fileno()).st_size - _SIZE_BYTES
        start = int.from_bytes(self._read(end, _SIZE_BYTES), "little")
        index = np.frombuffer(self._read(start, end - start), np.int64).reshape(-1, _COLUMNS)
        self._starts, self._sizes, self.num_tokens, responses, weighted = index.T
        self.num_weighted = int(weighted.sum())
        """Response tokens with weight, of all examples."""
        self.response_ends = np.cumsum(responses)
        """[N] int64: response tokens of all examples up to each, itself included."""

    @classmethod
    def write(cls, folder: Path, examples: Iterable[TrainingExample]) -> ExampleStore:
        """Store `examples` in their order. Raises RunFolderError when `folder` can't be written."""
        writer = ExampleWriter(folder)
        for example in examples:
            writer.add(example)
        return writer.finish()

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> TrainingExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingExample]: ...
    def __getitem__(self, index: int | slice) -> TrainingExample | list[TrainingExample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return _decode(self._read(int(self._starts[index]), int(self._sizes[index])))

    def __iter__(self) -> Iterator[TrainingExample]:
        return (self[index] for index in range(len(self)))

    def _read(self, start: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, start)


class ExampleWriter:
    """A store that is being written; it appears in its folder once it is finished."""

    def __init__(self, folder: Path) -> None:
        """Make `folder` when missing. Raises RunFolderError when it can't be written."""
        self._path = folder / _NAME
        self._partial = folder / f".{_NAME}.tmp"
        self.ids: list[str] = []
        """Ids of the examples, in the order in which they were added."""
        self._index = array("q")
        self._size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb")
        except OSError as error:
            raise self._unwritable(error) from error

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, example: TrainingExample) -> None:
        """Append an example. Raises RunFolderError when the disk is full."""
        record, count = _encode(example), example.num_response_tokens
        self._write(record)
        weighted = sum(weight > 0 for response in example.responses for weight in response.weights)
        self._index.extend((self._size, len(record), len(example.prompt_token_ids) + count, count, weighted))
        self.ids.append(example.id)
        self._size += len(record)

    def finish(self, places: Sequence[int] | None = None) -> ExampleStore:
        """The store of the examples at `places`, in this order; None: of all, in the order in which they were added."""
        index = np.frombuffer(self._index, np.int64).reshape(-1, _COLUMNS)
        if places is not None:
            index = index[np.asarray(places, np.int64)]
        self._write(index.tobytes() + self._size.to_bytes(_SIZE_BYTES, "little"))
        try:
            self._file.close()
            self._partial.replace(self._path)
        except OSError as error:
            raise self._unwritable(error) from error
        return ExampleStore(self._path)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunFolderError:
        return RunFolderError(f"{self._path}: can't be written: {error.strerror}")
