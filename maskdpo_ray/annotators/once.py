"""Work that many threads ask for, done once for each key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Once(Generic[Item, Result]):
    """Results by key, kept for good; whoever asks for a key first works it out, the others wait."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        """`work` gives one result for each item, in order. It may be called from several threads at once."""
        self._work = work
        self._lock = threading.Lock()
        self._futures: dict[Hashable, Future[Result]] = {}

    def get(self, items: Mapping[Hashable, Item]) -> dict[Hashable, Result]:
        """The result for each key. Raises what `work` raised, here or in the thread that was first."""
        with self._lock:
            mine = {key: Future[Result]() for key in items if key not in self._futures}
            self._futures.update(mine)
            futures = {key: self._futures[key] for key in items}
        # Own work comes before waiting: two threads that wait for each other's keys both finish.
        if mine:
            try:
                results = self._work([items[key] for key in mine])
            except BaseException as error:
                with self._lock:
                    for key in mine:
                        del self._futures[key]
                for future in mine.values():
                    future.set_exception(error)
                raise
            for future, result in zip(mine.values(), results, strict=True):
                future.set_result(result)
        return {key: future.result() for key, future in futures.items()}
