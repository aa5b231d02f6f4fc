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
# (What it is, where the mark stands, the mark.) Their members may lie uncompressed and so look like a file.
_ARCHIVES = (
    ("a ZIP archive", 0, b"PK\x03\x04"),
    ("a ZIP archive", 0, b"PK\x05\x06"),
    ("a tar archive", 257, b"ustar"),
    ("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", 0, b"Rar!\x1a\x07"),
    ("a Zstandard file", 0, b"\x28\xb5\x2f\xfd"),
    ("an LZ4 file", 0, b"\x04\x22\x4d\x18"),
)
SUFFIXES = (".gz", ".bz2", ".xz")


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes, decompressed if it is gzip, bzip2 or xz.

    Raises OSError when it can't be read, DataError when the compressed data is damaged or the file is an archive.
    """
    with path.open("rb") as file:
        opener = next((opener for magic, opener in _OPENERS.items() if file.peek(6).startswith(magic)), None)
        if opener is None:
            _refuse_archive(path, file)
            yield file
            return
        try:
            with io.BufferedReader(opener(file)) as inner:  # type: ignore[type-var,arg-type]
                _refuse_archive(path, inner)
                yield inner
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: expected a whole compressed file, got: {error}") from None


def _refuse_archive(path: Path, file: io.BufferedReader) -> None:
    head = file.peek(512)
    for what, at, mark in _ARCHIVES:
        if head.startswith(mark, at):
            raise DataError(
                f"{path}: expected a file of records, plain or with gzip, bzip2 or xz, got {what}; unpack it"
            )
