"""An actor that hosts an object which the driver built: it starts it here, once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from actors.faults import told
from actors.process import BusyClock, end_with_raylet


class Startable(Protocol):
    """What can be hosted."""

    def start(self) -> None:
        """Load what the work needs."""
        ...


Hosted = TypeVar("Hosted", bound=Startable)


@dataclass(frozen=True)
class Stored(Generic[Hosted]):
    """An object in Ray's store; whoever put it there keeps this."""

    reference: Any

    def fetch(self) -> Hosted:
        """A copy for this process."""
        import ray

        found: Hosted = ray.get(self.reference)
        return found


class Host(Generic[Hosted]):
    """Its methods are called from several threads when what it hosts has a `max_concurrency` above 1.

    Each call brings what is hosted along: Ray restarts an actor without asking `ready`, and does not keep what a
    constructor was given by reference, as it gives everything large.
    """

    def __init__(self) -> None:
        end_with_raylet()
        self._hosted: Hosted | None = None
        self._starting = threading.Lock()
        self._clock = BusyClock()

    def ready(self, stored: Stored[Hosted]) -> bool:
        """True once the object has started."""
        self._started(stored)
        return True

    def _started(self, stored: Stored[Hosted]) -> Hosted:
        with self._starting:
            if self._hosted is None:
                with told():
                    hosted = stored.fetch()
                    hosted.start()
                self._hosted = hosted
            return self._hosted

    def busy_seconds(self) -> float:
        """Seconds spent working since the start."""
        return self._clock.seconds()

    def until_gone(self) -> None:
        """Never returns: who waits for it learns of the end of this process."""
        threading.Event().wait()
