"""A new file of JSON Lines, or a table if its suffix says so, that appears whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from maskdpo_ray import whole_file
from maskdpo_ray.errors import DataError, one_line
from maskdpo_ray.store.ledger import encode_line

_ROWS = 1024


_OTHERS = (".csv", ".tsv", ".arrow", ".feather", ".ipc", ".orc", ".xlsx", ".zip", ".bz2", ".xz", ".zst", ".pkl", ".npz")
"""Suffixes of formats that are not written: some hold no lists, and JSON Lines under another suffix would mislead."""


def refuse(path: Path, force: bool, inputs: Iterable[str | Path], grows: bool = False) -> None:
    """Raise DataError unless `path` can become a new file, or with `force` replace one.

    A file that `grows` has to be uncompressed JSON Lines.

    Refused, also through links: one of `inputs` (names that are not files are ignored), and files in a run folder.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHERS or grows and suffix in (".parquet", ".gz"):
        others = "" if grows else ", .jsonl.gz or .parquet"
        raise DataError(f"{path}: expected a file to write that ends in .jsonl{others}, got one in {suffix}")
    try:
        there = path.exists()
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from None
    if there and not path.is_file():
        raise DataError(f"{path}: expected a file to write, got {'a folder' if path.is_dir() else 'a device'}")
    for name in inputs:
        if there and os.path.exists(name) and path.samefile(name):
            raise DataError(f"{path}: expected a file to write, got {name}, which is read")
    refuse_in_run_folder(path)
    if there and not force:
        raise DataError(f"{path}: expected no such file yet, got one; --force replaces it")
    if not path.parent.is_dir():
        raise DataError(f"{path}: expected a file in a folder that exists, got none at {path.parent}")


def refuse_in_run_folder(path: Path) -> None:
    """Raise DataError when `path`, or what it is a link to, lies within a run's folder, which is the run's alone."""
    # realpath, as it never raises.
    for place in (Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(path))):
        for folder in place.parents:
            if is_run_folder(folder):
                raise DataError(f"{path}: expected a place outside of run folders, got one in that of {folder}")


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds what every run writes first."""
    return all(os.path.isfile(path / name) for name in ("ledger.jsonl", "config.yaml"))  # isfile never raises


def write(path: Path, values: Iterable[Any]) -> int:
    """Write records or JSON values as they arrive; the file gets its name once all are on disk.

    One per line; .gz is compressed, .parquet is a table. Returns their number. An exception of `values` propagates and
    leaves no file behind. Raises DataError when the file can't be written.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp")  # short: with the name in it, it could be too long
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for value in values:
            count += 1
            yield encode_line(value)

    try:
        with whole_file.replacing(path, temporary) as file:
            if path.suffix.lower() == ".parquet":
                _write_table(path, lines(), file)
            elif path.suffix.lower() == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
                    compressed.writelines(lines())
            else:
                file.writelines(lines())
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from error
    return count


def _write_table(path: Path, lines: Iterator[bytes], file: BinaryIO) -> None:
    """Write Parquet with a column for each field. Raises DataError for values that don't fit one column type."""
    import pyarrow
    import pyarrow.parquet

    chunks = []
    try:
        while rows := [json.loads(line) for line in islice(lines, _ROWS)]:
            names = list(dict.fromkeys(name for row in rows for name in row))
            columns = {name: pyarrow.array([row.get(name) for row in rows]) for name in names}
            chunks.append(pyarrow.table(columns))
        if chunks:
            pyarrow.parquet.write_table(pyarrow.concat_tables(chunks, promote_options="permissive"), file)
        else:
            pyarrow.parquet.write_table(pyarrow.table({}), file)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: expected values that the columns of a table can hold, got: {one_line(error)}; .jsonl holds them"
        ) from None
