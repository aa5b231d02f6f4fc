"""Plain and compressed files, distinguished by their first bytes, not by their names."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskdpo_ray.errors import DataError

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
SUFFIXES = (".gz", ".bz2", ".xz")


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes, decompressed if it is gzip, bzip2 or xz.

    Raises OSError when it can't be read, DataError when the compressed data is damaged.
    """
    with path.open("rb") as file:
        opener = next((opener for magic, opener in _OPENERS.items() if file.peek(6).startswith(magic)), None)
        if opener is None:
            yield file
            return
        try:
            with io.BufferedReader(opener(file)) as inner:  # type: ignore[type-var,arg-type]
                yield inner
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: expected a whole compressed file, got: {error}") from None
