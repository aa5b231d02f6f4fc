"""A stream that another thread draws from, so that its producers keep working while this thread does something else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
_POLL_S = 0.1
_JOIN_TIMEOUT_S = 10.0
"""Longest wait for the thread when the stream is left before its end; it is a daemon."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class BackgroundStream(Generic[Item]):
    """A context manager; `ready` and `rest` hand items out to one thread, in the stream's order."""

    def __init__(self, stream: Iterable[Item], stop: Callable[[], None], most: int) -> None:
        """At most `most` items wait here. `stop` ends the stream soon; called when this is left before its end."""
        self._stream, self._stop = stream, stop
        self._waiting: queue.Queue[Item | _End] = queue.Queue(most)
        self._is_left = threading.Event()
        self._has_ended = False
        self._thread = threading.Thread(target=self._draw, name="background-stream", daemon=True)

    def __enter__(self) -> BackgroundStream[Item]:
        self._thread.start()
        return self

    @property
    def has_more(self) -> bool:
        """Whether `ready` has something to give, or to raise."""
        return not self._waiting.empty()

    def ready(self) -> Iterator[Item]:
        """Yield what has arrived, without waiting for more. Raises what the stream raised."""
        return self._items(lambda: self.has_more)

    def rest(self) -> Iterator[Item]:
        """Yield all that arrives until the stream ends. Raises what the stream raised."""
        return self._items(lambda: True)

    def _items(self, is_wanted: Callable[[], bool]) -> Iterator[Item]:
        while not self._has_ended and is_wanted():
            item = self._waiting.get()
            if not isinstance(item, _End):
                yield item
                continue
            self._has_ended = True
            if item.error is not None:
                raise item.error

    def _draw(self) -> None:
        error = None
        try:
            for item in self._stream:
                if not self._put(item):
                    return
        except BaseException as raised:  # raised again in the thread that takes the items
            error = raised
        self._put(_End(error))

    def _put(self, item: Item | _End) -> bool:
        """Wait for room; False when the stream is left before there is any."""
        while not self._is_left.is_set():
            try:
                self._waiting.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                pass
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_left.set()
        if not self._has_ended:
            self._stop()
        self._thread.join(_JOIN_TIMEOUT_S)
