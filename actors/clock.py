"""How long an actor had work."""

from __future__ import annotations

import threading
import time


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
