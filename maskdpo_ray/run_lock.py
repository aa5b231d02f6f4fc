"""The lock of a run folder: one process writes it at a time. The system frees it when that process ends."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from maskdpo_ray.errors import RunFolderError

NAME = "run.lock"


def hold(folder: Path) -> int:
    """Take the lock and return its descriptor: closing that frees it.

    Raises RunFolderError when another process holds it, OSError when it can't be made.
    """
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, folder, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_held(folder: Path) -> None:
    """Raise RunFolderError when another process holds the lock, OSError when it can't be read. Writes nothing."""
    if not os.path.lexists(folder / NAME):
        return
    # Opened for writing, as `hold` will: else a lock of somebody else's, or a folder, is seen too late.
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(descriptor, folder, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        raise RunFolderError(f"{folder}: another run writes this folder ({holder}); wait for it or stop it") from error
