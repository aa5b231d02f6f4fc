"""An actor that hosts an object which the driver built: it starts it here, once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from actors.calls import Refused
from actors.clock import BusyClock
from actors.faults import told
from actors.lifetime import end_with_raylet
from maskdpo_ray.errors import ReplyError, UserError


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
    max_concurrency: int = 1
    """Of the object: calls that it takes at a time, each in a thread of its own."""

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

    def many(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """The answers to several (method, arguments), in order; Refused in place of one that is about its question.

        Raises any UserError that is not.
        """
        answers: list[Any] = []
        for method, arguments in calls:
            try:
                answers.append(getattr(self, method)(*arguments))
            except UserError as error:
                if not isinstance(error, ReplyError):
                    raise
                answers.append(Refused.of(error))
            except Exception as error:
                answers.append(Refused.of(error))
        return answers

    def busy_seconds(self) -> float:
        """Seconds spent working since the start."""
        return self._clock.seconds()

    def until_gone(self) -> None:
        """Never returns: who waits for it learns of the end of this process."""
        threading.Event().wait()
