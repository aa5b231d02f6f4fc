"""A file that another process appends to, read as it grows: each byte once, whole lines only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maskdpo_ray.errors import RunFolderError

_CHUNK = 2**20
_MARK = 64


class Tail:
    """The lines of a growing file, each given once; a last one without its end waits until that is there."""

    def __init__(self, path: Path, last: int | None = None) -> None:
        """`last`: begin with the first line that starts within the last so many bytes; None: with the first."""
        self.path = path
        self._last = last
        self._end: int | None = None  # of what was given
        self._mark = b""  # the bytes before it

    def rewind(self) -> bool:
        """Go back to the beginning when the file is not the one that was read so far: shorter, replaced or removed.

        Returns whether it is another one. Raises RunFolderError when it can't be read.
        """
        if not self._end:
            return False
        with _reading(self.path), self.path.open("rb") as file:
            file.seek(self._end - len(self._mark))
            if file.read(len(self._mark)) == self._mark:
                return False
        self._end, self._mark = None, b""
        return True

    def blocks(self) -> Iterator[bytes]:
        """Bytes that were added since the last call, in blocks of whole lines; none of a file that is not there.

        Raises RunFolderError when it can't be read.
        """
        with _reading(self.path), self.path.open("rb") as file:
            if self._end is None:
                self._end = self._beginning(file)
            if self._end is None:
                return
            file.seek(self._end)
            torn: list[bytes] = []
            while chunk := file.read(_CHUNK):
                if not (whole := chunk.rfind(b"\n") + 1):
                    torn.append(chunk)
                    continue
                block = b"".join([*torn, chunk[:whole]])
                torn = [chunk[whole:]]
                self._end += len(block)
                self._mark = (self._mark + block[-_MARK:])[-_MARK:]
                yield block

    def lines(self) -> Iterator[bytes]:
        """The lines of `blocks`, each without its end."""
        for block in self.blocks():
            yield from block[:-1].split(b"\n")

    def _beginning(self, file: BinaryIO) -> int | None:
        """Place of the first line to give; None while no line starts within the last bytes."""
        size = os.fstat(file.fileno()).st_size
        if self._last is None or size <= self._last:
            return 0
        start = file.seek(size - self._last - 1)  # a line starts behind an end
        newline = file.read(self._last + 1).find(b"\n")
        return None if newline < 0 else start + newline + 1


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A context that a missing file ends; any other fault is a RunFolderError."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path}: can't be read: {error.strerror}") from error
