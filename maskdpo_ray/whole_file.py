"""A file that is there whole, the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maskdpo_ray.errors import RunFolderError, one_line
from maskdpo_ray.store.ledger import sync_folder

_WRITE_ERRORS = ("inline_container", "PytorchStreamWriter", "(os error ")


def write(target: Path, data: bytes) -> None:
    """Write or replace `target`, its folder made when missing. Raises RunFolderError when that can't be."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, target.with_name(f".{target.name}.tmp")) as file:
            file.write(data)
    except OSError as error:
        raise RunFolderError(f"{target}: can't be written: {error.strerror}") from error


@contextmanager
def written_by_others(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Context for libraries that write to `path`, or first to `partial`: a full disk becomes one line with the free
    space, and the files get the mode of the umask (safetensors makes them readable by their owner only).

    Raises RunFolderError for OSError, and for the errors that torch and safetensors raise in place of one.
    """
    try:
        yield
        _follow_umask(partial or path)
    except Exception as error:
        if not isinstance(error, OSError) and not any(words in str(error) for words in _WRITE_ERRORS):
            raise
        nearest = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(nearest).free >> 20
        why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise RunFolderError(f"{path}: can't be written: {why} ({free} MiB are free there)") from error


def _follow_umask(path: Path) -> None:
    """Set the mode of a file, or of all files in a folder, to that of a newly created file."""
    status = Path("/proc/self/status").read_text()  # os.umask can't be read without setting it, for all threads
    mode = 0o666 & ~int(status.partition("Umask:")[2].split()[0], 8)
    for file in (path, *path.rglob("*")):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


@contextmanager
def replacing(target: Path, temporary: Path) -> Iterator[BinaryIO]:
    """`temporary`, opened to be written; it takes the name `target` at the end, and goes when that does not come to be.

    Raises OSError.
    """
    file = temporary.open("wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
