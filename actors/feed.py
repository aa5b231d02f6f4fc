"""One pass of a pool's calls: who gets which, what has ended, and what is asked again. The rules are `pool.py`'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from actors import calls
from actors.calls import Refused, first_line
from maskdpo_ray.errors import ActorLost, ReplyError, UserError
from maskdpo_ray.stages import Failed

if TYPE_CHECKING:
    from actors.pool import Pool

TRIES = 3
"""Failures after which a call is given up."""

Item = TypeVar("Item")
Ask = Callable[[Item], tuple[str, tuple[Any, ...]]]
"""Item -> the actor's method and its arguments."""
_END = object()
_LOOK_S = 1.0
"""Longest between two looks for actors that hang or have come back."""
_PAUSE_S = 0.5
"""Shortest."""
_SLOW_S = 0.01
"""When whoever takes our results took longer over one, nothing waits to be sent while the next one is taken."""
_AHEAD = 2
"""Calls that an actor has when what is quickly done waits to go together: one at work, and the next one."""
_TOGETHER_S = 0.1
"""What goes together takes an actor about this long, at most."""
_FOR_THE_NODE = "; have fewer actors on a node, or lower vllm.cpu_kv_cache_gib"


@dataclass(frozen=True)
class Failure:
    """In place of an answer: the call failed `TRIES` times."""

    error: str
    """One line, the last failure's."""


@dataclass(eq=False)
class _Call(Generic[Item]):
    item: Item
    index: int = -1
    """The actor that has it, or had it last."""
    failures: int = 0
    given_at: float = 0.0
    """When it was given to the actor, though it may have been sent later."""

    @property
    def is_last_try(self) -> bool:
        return self.failures == TRIES - 1


class Feed(Generic[Item]):
    """One pass over some items. Each step takes the same time however many calls are under way.

    So Ray is not asked what is done (`ray.wait` goes through all that it is asked about), but tells it, by futures.
    """

    def __init__(
        self,
        pool: Pool,
        ask: Ask[Item],
        home: Callable[[Item], int] | None,
        check: Callable[[Item, Any], None] | None = None,
        at_home_only: bool = False,
        together: int = 1,
    ) -> None:
        self._pool, self._ask, self._home, self._check, self._together = pool, ask, home, check, together
        self._at_home_only = at_home_only
        """Otherwise others stand in for an actor that is lost."""
        self._running: dict[Future[Any], list[_Call[Item]]] = {}
        """Those together that went together."""
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()
        """Of `_running`, and of actors that were lost; Ray's thread puts them here."""
        self._of_actor: list[dict[Future[Any], list[_Call[Item]]]] = [{} for _ in range(len(pool))]
        """The same by actor, each one's oldest first."""
        self._unsent: set[int] = set()
        """Actors to be asked what has ended, and given what waits, before this waits itself."""
        self._queued: list[list[_Call[Item]]] = [[] for _ in range(len(pool))]
        """By actor, what goes to it together when it has answered."""
        self._loads = [0] * len(pool)
        """Calls that each actor has, or will have."""
        self._num_in_flight = 0
        """Their sum."""
        self._seconds_each: float | None = None
        """That an actor takes for one, lately."""
        self._waiting: list[_Call[Item]] = []
        """Longest first."""
        self._since = [0.0] * len(pool)
        """When the actor's oldest call became its oldest."""
        self._overtaken: set[int] = set()
        """Actors that began and ended another call since their oldest one was late."""
        self._alone: dict[int, _Call[Item]] = {}
        """Actor -> the call that has it to itself, or will have when the others are done."""
        self._look_at = 0.0
        """When to look next for actors that hang."""

    def run(self, items: Iterable[Item | Failed], max_in_flight: int) -> Iterator[tuple[Any, Any]]:
        """See `Pool.feed`."""
        is_slow = False
        for result in self._results(iter(items), max_in_flight):
            if is_slow:
                self._send_waiting()
            given = time.monotonic()
            yield result
            held = time.monotonic() - given
            is_slow = held > _SLOW_S
            if is_slow:
                for index in self._unsent:  # what was not sent could not be answered
                    self._since[index] += held

    def _results(self, source: Iterator[Any], max_in_flight: int) -> Iterator[tuple[Any, Any]]:
        has_more = True
        while not self._pool.is_stopped:
            self._give_out_waiting()
            if self._at_home_only:
                yield from self._given_up()
            if has_more and not self._waiting and self._num_in_flight < max_in_flight:
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
            elif self._waiting:
                self._pool.await_one({index for call in self._waiting for index in self._candidates(call)})
            else:
                return

    def _given_up(self) -> Iterator[tuple[Item, Any]]:
        """Calls that are for nobody but a lost actor."""
        gone = [call for call in self._waiting if self._pool.is_lost(self._candidates(call)[0])]
        for call in gone:
            self._waiting.remove(call)
            yield call.item, Failure(self._pool.why_lost(self._candidates(call)[0]))

    def _give_out_waiting(self) -> None:
        self._pool.look_for_absent()
        self._waiting = [call for call in self._waiting if not self._give_out(call)]

    def _give_out(self, call: _Call[Item]) -> bool:
        """Submit a call, or leave it waiting for an actor that is to be alone with one."""
        index = self._choose(call)
        if index is None:
            return False
        if call.is_last_try:
            self._alone = {each: other for each, other in self._alone.items() if other is not call}  # of one that left
            self._alone[index] = call
            if self._loads[index]:
                return False
        call.index, call.given_at = index, time.monotonic()
        self._queued[index].append(call)
        self._loads[index] += 1
        self._num_in_flight += 1
        self._send(index)
        return True

    def _send(self, index: int) -> None:
        """Submit what waits for an actor, unless it is quickly done and can go with more of its kind."""
        queued, calls_of_it = self._queued[index], self._of_actor[index]
        size = 1
        if self._together > 1 and self._seconds_each is not None:
            size = min(self._together, max(1, int(_TOGETHER_S / max(self._seconds_each, 1e-6))))
        while queued and (size == 1 or len(calls_of_it) < _AHEAD):
            if not calls_of_it:
                self._since[index] = time.monotonic()
            together = queued[:size]
            del queued[:size]
            asked = [self._ask(call.item) for call in together]
            if len(asked) > 1:
                asked = [("many", (asked,))]
            future = self._pool.call(index, *asked[0])
            self._unsent.add(index)
            self._running[future] = calls_of_it[future] = together
            future.add_done_callback(self._ended.put)

    def _choose(self, call: _Call[Item]) -> int | None:
        """The least loaded actor that may take a call, None when there is none at present."""
        if self._home is None and not self._alone and self._pool.are_all_here():
            return self._loads.index(min(self._loads))
        here = [index for index in self._candidates(call) if self._pool.is_here(index)]
        free = [index for index in here if self._alone.get(index) in (None, call)]
        return min(free, key=lambda index: (self._alone.get(index) is not call, self._loads[index]), default=None)

    def _candidates(self, call: _Call[Item]) -> Sequence[int]:
        everyone = range(len(self._pool))
        if self._home is None:
            return everyone
        home = self._home(call.item)
        return everyone if self._pool.is_lost(home) and not self._at_home_only else [home]

    def _finished(self, block: bool) -> Iterator[tuple[Item, Any]]:
        for future in self._done(block):
            if future in self._running:
                yield from self._take(future)
        if time.monotonic() >= self._look_at:
            yield from self._end_hung()

    def _done(self, block: bool) -> list[Future[Any]]:
        """Calls that have ended, with `block` one at least unless it is time to look for actors that hang."""
        done = [self._ended.get_nowait() for _ in range(self._ended.qsize())]
        if block and not done:
            self._send_waiting()
            try:
                done.append(self._ended.get(timeout=max(0.0, self._look_at - time.monotonic())))
            except Empty:
                return []
        return done

    def _send_waiting(self) -> None:
        self._pool.flush(self._unsent)
        self._unsent.clear()

    def _end_hung(self) -> Iterator[tuple[Item, Any]]:
        self._pool.flush(range(len(self._pool)))
        for index, calls_of_it in enumerate(self._of_actor):
            if not calls_of_it or time.monotonic() < self._deadline(index):
                continue
            # When whoever takes our results was slow, it may be there and only not taken yet, or not fetched.
            if next(iter(calls_of_it)).done():
                continue
            if not (self._pool.is_silent(index) or index in self._overtaken):
                continue
            why = f"no answer to its oldest call within {self._pool.allowed_s(index):g} s (cluster.step_timeout_s)"
            self._pool.end(index)
            yield from self._lose(index, why)
        now = time.monotonic()
        soon = [self._deadline(index) for index, load in enumerate(self._loads) if load]
        self._look_at = max(now + _PAUSE_S, min([now + _LOOK_S, *soon]))

    def _deadline(self, index: int) -> float:
        return self._since[index] + self._pool.allowed_s(index)

    def _take(self, future: Future[Any]) -> Iterator[tuple[Item, Any]]:
        """What came of a call."""
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        together = self._running[future]
        index = together[0].index
        try:
            answer = future.result()
            answers = answer if len(together) > 1 else [answer]
        except (RayTaskError, UserError) as error:
            cause = calls.cause_of(error)
            if isinstance(cause, ActorLost):
                self._pool.end(index)
                yield from self._lose(index, first_line(cause))
                return
            if isinstance(cause, UserError) and not isinstance(cause, ReplyError):
                raise cause from (None if cause is error else error)
            answers = [Refused.of(cause)] * len(together)
        except RayError as error:
            if calls.is_death(error):
                remedy = _FOR_THE_NODE if isinstance(error, OutOfMemoryError) else ""
                yield from self._lose(index, f"its process ended{calls.reason(error)}{remedy}")
                return
            answers = [Refused(first_line(error))] * len(together)
        self._pool.answered(index)
        self._remove(future, is_answered=True)
        for call, answer in zip(together, answers, strict=True):
            refused = self._refused(call, answer)
            if refused is None:
                yield call.item, answer
            else:
                yield from self._fail(call, refused.error)

    def _refused(self, call: _Call[Item], answer: Any) -> Refused | None:
        """Why an answer is none."""
        if isinstance(answer, Refused):
            return answer
        try:
            if self._check is not None:
                self._check(call.item, answer)
        except ReplyError as error:
            return Refused.of(error)
        return None

    def _remove(self, future: Future[Any], is_answered: bool = False) -> list[_Call[Item]]:
        together = self._running.pop(future)
        index = together[0].index
        calls_of_it = self._of_actor[index]
        if next(iter(calls_of_it.values())) is together:
            now = time.monotonic()
            if is_answered:
                self._seconds_each = (now - self._since[index]) / len(together)
            self._since[index] = now
            self._overtaken.discard(index)
        elif is_answered and together[0].given_at > self._deadline(index):
            self._overtaken.add(index)  # an actor gives back first what ended first
        del calls_of_it[future]
        self._unsent.add(index)
        self._loads[index] -= len(together)
        self._num_in_flight -= len(together)
        if self._alone.get(index) in together:
            del self._alone[index]
        self._send(index)
        return together

    def _lose(self, index: int, why: str) -> Iterator[tuple[Item, Any]]:
        """All calls of an actor that is gone have failed; what waited for it has not."""
        futures, queued = list(self._of_actor[index]), self._queued[index]
        self._queued[index] = []
        self._loads[index] -= len(queued)
        self._num_in_flight -= len(queued)
        self._waiting += queued
        self._pool.lost(index, why, self._loads[index])
        for call in [call for future in futures for call in self._remove(future)]:
            yield from self._fail(call, why)

    def _fail(self, call: _Call[Item], why: str) -> Iterator[tuple[Item, Any]]:
        call.failures += 1
        if call.failures == TRIES:
            yield call.item, Failure(f"{self._pool.name(call.index)}: {why}")
        else:
            self._waiting.append(call)
