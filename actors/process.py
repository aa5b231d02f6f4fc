"""Processes that end with another one, however that one ends.

How long an actor had work.

Cores of this machine that one process takes for itself, so that engines beside each other don't share them.

Memory of freed tensors, given back to the system.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

_INTERVAL_S = 0.5


def end_with(pid: int) -> None:
    """End this process soon after process `pid`. Returns at once."""
    threading.Thread(target=_end_when_gone, args=(pid,), daemon=True, name="end-with-another").start()


def end_with_raylet() -> None:
    """In an actor: end with Ray's node, which ends with a driver that has its own.

    Ray's workers look whether process 1 is their parent by now; where another one takes orphans (systemd's user
    manager, a container's supervisor) they would keep memory and GPU for a minute that the next attempt needs.
    """
    import psutil

    parent = psutil.Process().parent()
    if parent is not None and parent.name() == "raylet":
        end_with(parent.pid)


def _end_when_gone(pid: int) -> None:
    import psutil

    try:
        other = psutil.Process(pid)
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_INTERVAL_S)
    except psutil.NoSuchProcess:
        pass  # already gone, which is what this waits for
    os._exit(1)


class BusyClock:
    """Counts the seconds in which at least one block entered it; blocks may overlap, in threads too.

    Example: `with clock: ...` around each piece of work, `clock.seconds()` at any time.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._running = 0
        self._since = 0.0
        self._seconds = 0.0

    def __enter__(self) -> None:
        with self._changing:
            if self._running == 0:
                self._since = time.perf_counter()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self._running -= 1
            if self._running == 0:
                self._seconds += time.perf_counter() - self._since

    def seconds(self) -> float:
        """Busy seconds so far, the running stretch included."""
        with self._changing:
            running = time.perf_counter() - self._since if self._running else 0.0
            return self._seconds + running


_held_cores: list[int] = []
"""Descriptors of locks, which end with this process."""


def claim_cores(count: int, folder: Path | None = None) -> list[int]:
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
    _held_cores.extend(locks.values())
    return list(locks)


def free_memory() -> None:
    """Give freed tensors back to the system, so that the next engine or model finds room."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Give back what glibc keeps of freed tensors on a CPU: milliseconds for each GiB. Nothing without glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if malloc_trim is not None:
        malloc_trim(0)
