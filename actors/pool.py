"""A group of actors of one kind: calls go out few at a time, and what dies or hangs is replaced and asked again.

Ray restarts an actor that died. What it was doing, the driver gives out again: so each failure is counted against
the call that it met, and a call that fails `TRIES` times is given up. These rules make that fair:

- An actor hangs when its oldest call has been the oldest for `cluster.step_timeout_s` and has no answer. Actors take
  their calls in order, so the oldest one is at work and doesn't wait behind others, however long the queue is; one
  call that hangs while others finish becomes the oldest. An actor that was restarted has `cluster.start_timeout_s` on
  top until its first answer.
- Of an actor that died or hung every call has failed once, as nobody knows which one was to blame. So the last try of a
  call has an actor to itself: a question that kills engines takes no other question with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from actors import calls
from actors.calls import first_line
from maskdpo_ray.config import ClusterConfig
from maskdpo_ray.errors import ActorLost, ClusterError, ReplyError, UserError
from maskdpo_ray.report.progress import note
from maskdpo_ray.stages import Failed

TRIES = 3
"""Failures after which a call is given up."""

Item = TypeVar("Item")
Ask = Callable[[Item], tuple[str, tuple[Any, ...]]]
"""Item -> the actor's method and its arguments."""
_END = object()
_FOR_THE_NODE = "; have fewer actors on a node, or lower vllm.cpu_kv_cache_gib"


@dataclass(frozen=True)
class Failure:
    """In place of an answer: the call failed `TRIES` times."""

    error: str
    """One line, the last failure's."""


class Pool:
    """Handles of started actors, each with a method `until_gone` that never returns."""

    def __init__(self, handles: Sequence[Any], what: str, cluster: ClusterConfig) -> None:
        """`what` an actor is called in messages."""
        self.handles = handles
        self._what = what
        self._cluster = cluster
        self._starting: set[int] = set()
        """Actors that were replaced and have not answered since."""
        self.restarts = 0
        """Deaths and hangs that calls met."""

    def __len__(self) -> int:
        return len(self.handles)

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """The answers of all actors, in order. Raises ClusterError about the first one that failed `TRIES` times."""
        answers: dict[int, Any] = {}
        for index, answer in self.feed(range(len(self)), lambda _: (method, arguments), len(self), home=lambda i: i):
            if isinstance(answer, Failure):
                raise ClusterError(answer.error)
            answers[index] = answer
        return [answers[index] for index in range(len(self))]

    def feed(
        self,
        items: Iterable[Any],
        ask: Ask[Any],
        max_in_flight: int,
        home: Callable[[Any], int] | None = None,
        check: Callable[[Any, Any], None] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Hand items to the least loaded actor, or to number `home(item)`, few at a time; yield (item, answer) as they
        finish, (item, Failure) when one is given up.

        An item that is a `stages.Failed` comes out as a Failure at once. `check(item, answer)` raises ReplyError when
        the answer is not one. Items are taken one by one and finished ones given back between two takings, so that a
        slow source (the stage before this one) doesn't hold results up.

        Raises what an actor raised when that is a UserError other than a ReplyError: it is not about one item.
        """
        return _Feed(self, ask, home, check).run(items, max_in_flight)

    def submit(self, index: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """A call that Ray does not repeat by itself."""
        return getattr(self.handles[index], method).options(max_task_retries=0).remote(*arguments)

    def allowed_s(self, index: int) -> float:
        """Longest that the actor's oldest call may take."""
        start = self._cluster.start_timeout_s if index in self._starting else 0
        return self._cluster.step_timeout_s + start

    def answered(self, index: int) -> None:
        """Take note that the actor is alive."""
        self._starting.discard(index)

    def name(self, index: int) -> str:
        """Of an actor, in messages."""
        return f"{self._what} {index}"

    def lost(self, index: int, why: str, num_calls: int) -> None:
        """Take note that Ray starts the actor again, and say so."""
        self.restarts += 1
        self._starting.add(index)
        note(f"{self.name(index)}: {why}; it is restarted, and the {num_calls} calls that it had count as failed")

    def end(self, index: int) -> None:
        """End an actor's process; Ray starts another. Returns when it is gone: what is given to it earlier is lost."""
        import ray

        gone = self.submit(index, "until_gone", ())
        ray.kill(self.handles[index], no_restart=False)
        ray.wait([gone], timeout=self._cluster.start_timeout_s)


@dataclass(eq=False)
class _Call(Generic[Item]):
    item: Item
    index: int = -1
    """The actor that has it, or had it last."""
    failures: int = 0

    @property
    def is_last_try(self) -> bool:
        return self.failures == TRIES - 1


class _Feed(Generic[Item]):
    """One pass over some items."""

    def __init__(
        self, pool: Pool, ask: Ask[Item], home: Callable[[Item], int] | None, check: Callable[[Item, Any], None] | None
    ) -> None:
        self._pool, self._ask, self._home, self._check = pool, ask, home, check
        self._running: dict[Any, _Call[Item]] = {}
        """By reference, oldest first."""
        self._waiting: list[_Call[Item]] = []
        """Longest first."""
        self._since = [0.0] * len(pool)
        """When the actor's oldest call became its oldest."""
        self._alone: list[_Call[Item] | None] = [None] * len(pool)
        """The call that has the actor to itself, or will have when the others are done."""

    def run(self, items: Iterable[Item | Failed], max_in_flight: int) -> Iterator[tuple[Any, Any]]:
        source: Iterator[Any] = iter(items)
        has_more = True
        while True:
            self._give_out_waiting()
            if has_more and not self._waiting and len(self._running) < max_in_flight:
                item = next(source, _END)
                if item is _END:
                    has_more = False
                elif isinstance(item, Failed):
                    yield item, Failure(item.error)
                else:
                    self._waiting.append(_Call(item))
                    self._give_out_waiting()
                yield from self._finished(block=False)
            elif self._running:
                yield from self._finished(block=True)
            else:
                return

    def _give_out_waiting(self) -> None:
        self._waiting = [call for call in self._waiting if not self._give_out(call)]

    def _give_out(self, call: _Call[Item]) -> bool:
        """Submit a call, or leave it waiting for an actor that is to be alone with one."""
        candidates = range(len(self._pool)) if self._home is None else [self._home(call.item)]
        free = [index for index in candidates if self._alone[index] in (None, call)]
        if not free:
            return False
        index = min(free, key=lambda index: (self._alone[index] is not call, self._load(index)))
        if call.is_last_try:
            self._alone[index] = call
            if self._load(index):
                return False
        if not self._load(index):
            self._since[index] = time.monotonic()
        call.index = index
        self._running[self._pool.submit(index, *self._ask(call.item))] = call
        return True

    def _load(self, index: int) -> int:
        return sum(call.index == index for call in self._running.values())

    def _finished(self, block: bool) -> Iterator[tuple[Item, Any]]:
        import ray

        if not self._running:
            return
        first = min(self._deadline(call.index) for call in self._running.values())
        timeout = max(0.0, first - time.monotonic()) if block else 0
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        for reference in done:
            yield from self._take(reference)
        for index in {call.index for call in self._running.values()}:
            oldest = next(reference for reference, call in self._running.items() if call.index == index)
            # It may be there and only not fetched yet, when whoever takes our results was slow.
            if time.monotonic() >= self._deadline(index) and not ray.wait([oldest], timeout=0)[0]:
                why = (
                    f"no answer to its oldest call within {self._pool.allowed_s(index):.0f} s (cluster.step_timeout_s)"
                )
                self._pool.end(index)
                yield from self._lose(index, why)

    def _deadline(self, index: int) -> float:
        return self._since[index] + self._pool.allowed_s(index)

    def _take(self, reference: Any) -> Iterator[tuple[Item, Any]]:
        """What came of a call."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        call = self._running[reference]
        try:
            answer = ray.get(reference)
            if self._check is not None:
                self._check(call.item, answer)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ActorLost):
                self._pool.end(call.index)
                yield from self._lose(call.index, first_line(cause))
                return
            if isinstance(cause, UserError) and not isinstance(cause, ReplyError):
                raise cause from error
            kind = "" if isinstance(cause, UserError) else f"{type(cause).__name__}: "
            failure: str | None = f"{kind}{first_line(cause)}"
        except (RayError, ReplyError) as error:
            if calls.is_death(error):
                remedy = _FOR_THE_NODE if isinstance(error, OutOfMemoryError) else ""
                yield from self._lose(call.index, f"its process ended{calls.reason(error)}{remedy}")
                return
            failure = first_line(error)
        else:
            failure = None
        self._pool.answered(call.index)
        self._remove(reference)
        if failure is None:
            yield call.item, answer
        else:
            yield from self._fail(call, failure)

    def _remove(self, reference: Any) -> _Call[Item]:
        call = self._running[reference]
        is_oldest = next(each for each in self._running.values() if each.index == call.index) is call
        del self._running[reference]
        if is_oldest:
            self._since[call.index] = time.monotonic()
        if self._alone[call.index] is call:
            self._alone[call.index] = None
        return call

    def _lose(self, index: int, why: str) -> Iterator[tuple[Item, Any]]:
        """All calls of an actor that is gone have failed."""
        references = [reference for reference, call in self._running.items() if call.index == index]
        self._pool.lost(index, why, len(references))
        for call in [self._remove(reference) for reference in references]:
            yield from self._fail(call, why)

    def _fail(self, call: _Call[Item], why: str) -> Iterator[tuple[Item, Any]]:
        call.failures += 1
        if call.failures == TRIES:
            yield call.item, Failure(f"{self._pool.name(call.index)}: {why}")
        else:
            self._waiting.append(call)
