"""A file of JSON Lines that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskdpo_ray import whole_file
from maskdpo_ray.errors import DataError
from maskdpo_ray.ledger import encode_line


def refuse(path: Path, force: bool, inputs: Iterable[str | Path]) -> None:
    """Raise DataError unless `path` can become a new file, or with `force` replace one.

    Never one of `inputs` (names that are no file are fine) and none in a run folder, through links neither.
    """
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
    """Write records or JSON values, one a line as they come; the file takes its name once all are on the disk.

    Returns how many there were. What `values` raises goes through and leaves nothing behind. Raises DataError when
    the file can't be written.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp")  # short: with the name in it, it could be too long
    count = 0
    try:
        with whole_file.replacing(path, temporary) as file:
            for value in values:
                file.write(encode_line(value))
                count += 1
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from error
    return count
