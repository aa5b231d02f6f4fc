"""Cores of this machine that one process takes for itself, so that engines beside each other don't share them."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

_held: list[int] = []
"""Descriptors of locks, which end with this process."""


def claim(count: int, folder: Path | None = None) -> list[int]:
    """`count` cores, in order: those that no other process has claimed, as long as they suffice, else the first ones.

    Args:
        count: at least 1; more than this process may use count as all of them.
        folder: of the locks; by default one for this user and machine.
    """
    allowed = sorted(os.sched_getaffinity(0))
    count = min(count, len(allowed))
    folder = folder or Path(tempfile.gettempdir()) / f"maskdpo-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks: dict[int, int] = {}
    for core in allowed:
        if len(locks) == count:
            break
        descriptor = os.open(folder / str(core), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            locks[core] = descriptor
    if len(locks) < count:  # whoever has less than it needs would slow down those who have enough
        for descriptor in locks.values():
            os.close(descriptor)
        return allowed[:count]
    _held.extend(locks.values())
    return list(locks)
