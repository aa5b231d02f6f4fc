"""A file of JSON Lines that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import DataError
from maskdpo_ray.ledger import encode_line, sync_folder


def refuse_existing(path: Path, force: bool) -> None:
    """Raise DataError unless `path` can become a new file, or with `force` replace one."""
    if path.is_dir():
        raise DataError(f"{path}: expected a file to write, got a folder")
    if path.exists() and not force:
        raise DataError(f"{path}: expected no such file yet, got one; --force replaces it")
    if not path.parent.is_dir():
        raise DataError(f"{path}: expected a file in a folder that exists, got none at {path.parent}")


def write(path: Path, values: Iterable[Any]) -> int:
    """Write records or JSON values, one a line as they come; the file takes its name once all are on the disk.

    Returns how many there were. What `values` raises goes through and leaves nothing behind. Raises DataError when
    the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with temporary.open("wb") as file:
            for value in values:
                file.write(encode_line(value))
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count
