"""An actor that hosts an object which the driver built: it starts it here, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from actors.clock import BusyClock


class Startable(Protocol):
    """What can be hosted."""

    def start(self) -> None:
        """Load what the work needs."""
        ...


Hosted = TypeVar("Hosted", bound=Startable)


class Host(Generic[Hosted]):
    """Its methods are called from several threads when what it hosts has a `max_concurrency` above 1."""

    def __init__(self, fetch: Callable[[], Hosted]) -> None:
        """`fetch` gives the object as the driver built it, not started."""
        self._fetch = fetch
        self._hosted: Hosted | None = None
        self._starting = threading.Lock()
        self._clock = BusyClock()

    def ready(self) -> bool:
        """True once the object has started."""
        self._started()
        return True

    def _started(self) -> Hosted:
        # Not in __init__, whose errors Ray wraps; and Ray restarts an actor without asking `ready`.
        with self._starting:
            if self._hosted is None:
                hosted = self._fetch()
                hosted.start()
                self._hosted = hosted
            return self._hosted

    def busy_seconds(self) -> float:
        """Seconds spent working since the start."""
        return self._clock.seconds()
