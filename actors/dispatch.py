"""Calls for many items to a pool of actors: which actor gets which item, what has finished, what is tried again.

A call is one Ray call. Ray restarts an actor that died, and the driver repeats what it was doing: each failure counts
against the call that it met, and a call that fails `TRIES` times has failed for good. These rules make that fair:

- An actor hangs when its oldest call has been the oldest for `cluster.step_timeout_s` and is not finished. Actors begin
  their calls in order, so the oldest one is running and not queued behind others, and one that hangs while others
  finish becomes the oldest. A restarted actor has `cluster.start_timeout_s` on top until its first answer. Answers that
  are there and not yet taken, because the consumer is slow, are not late.
- When an actor died or hung, all of its calls have failed once, as nobody knows which one was to blame. So the last try
  of a call has an actor to itself: a question that kills engines takes no other question with it.
- A restarted actor gets no call before it answers a ping; see `pool.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from actors.calls import first_line, is_death, message_of, reason
from actors.pool import Pool
from maskdpo_ray.errors import ActorLost, ClusterError, ReplyError, UserError
from maskdpo_ray.records import Failed

TRIES = 3
"""Failures after which a call is not repeated."""
Item = TypeVar("Item")
CallOf = Callable[[Item], tuple[str, tuple[Any, ...]]]
"""Item -> name of the actor's method, and its arguments."""
_END = object()
_MAX_WAIT_S, _MIN_WAIT_S = 1.0, 0.5
"""Between two looks for actors that hang."""
_LESS_ON_A_NODE = "; have fewer actors on a node, or lower vllm.cpu_kv_cache_gib"


@dataclass(frozen=True)
class Failure:
    """The result for an item whose call failed `TRIES` times, or that came in as a `Failed`."""

    error: str
    """One line, the last failure's."""


@dataclass(eq=False)
class _Call(Generic[Item]):
    item: Item
    actor: int = -1
    """The one that runs it, or ran it last."""
    failures: int = 0

    @property
    def is_last_try(self) -> bool:
        return self.failures == TRIES - 1


class Dispatcher(Generic[Item]):
    """One pass of items over a pool; a pool serves one at a time.

    Ray tells us by futures what has finished: `ray.wait` takes longer the more calls are running.
    """

    def __init__(
        self,
        pool: Pool,
        call_of: CallOf[Item],
        home: Callable[[Item], int] | None = None,
        check: Callable[[Item, Any], None] | None = None,
        only_at_home: bool = False,
    ) -> None:
        """Nothing is called before `run`.

        Args:
            pool: the actors.
            call_of: what to call for an item.
            home: the actor that an item goes to; without it, the one with the fewest calls.
            check: raises ReplyError when an item's answer is not valid.
            only_at_home: an item whose home is lost fails, where otherwise other actors take it.
        """
        self._pool, self._call_of, self._home, self._check = pool, call_of, home, check
        self._only_at_home = only_at_home
        self._running: dict[Future[Any], _Call[Item]] = {}
        self._by_actor: list[dict[Future[Any], _Call[Item]]] = [{} for _ in range(len(pool))]
        """`_running` by actor, oldest first."""
        self._oldest_since = [0.0] * len(pool)
        """When an actor's oldest call became the oldest."""
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        """Filled by a thread of Ray's; also with calls of actors that were restarted, which nobody waits for."""
        self._waiting: list[_Call[Item]] = []
        """Calls to be sent, longest-waiting first."""
        self._reserved: dict[int, _Call[Item]] = {}
        """Actor -> the last try that has it to itself, once its other calls have finished."""
        self._next_look = 0.0
        """When to look for actors that hang."""

    def run(self, items: Iterable[Item | Failed], max_in_flight: int) -> Iterator[tuple[Any, Any]]:
        """Yield (item, answer) as calls finish, (item, Failure) for those that failed for good and for each `Failed`.

        Items are drawn one by one, and finished ones are yielded between two of them: a slow source, such as the stage
        before, does not delay results.

        Raises:
            UserError: raised by an actor, other than a ReplyError: it is not about one item.
            ClusterError: the actors that could take an item are lost.
        """
        source, has_more = iter(items), True
        while not self._pool.is_stopped:
            yield from self._send_waiting()
            if has_more and not self._waiting and len(self._running) < max_in_flight:
                item = next(source, _END)
                if item is _END:
                    has_more = False
                elif isinstance(item, Failed):
                    yield item, Failure(item.error)
                else:
                    self._waiting.append(_Call(item))
                    yield from self._send_waiting()
                yield from self._results(block=False)
            elif self._running:
                yield from self._results(block=True)
            elif self._waiting:
                self._pool.await_any({actor for call in self._waiting for actor in self._candidates(call)})
            else:
                return

    def _send_waiting(self) -> Iterator[tuple[Item, Failure]]:
        """Send what waits and can be sent; yield calls that only a lost actor could take."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            if self._only_at_home and self._pool.is_lost(home := self._candidates(call)[0]):
                yield call.item, Failure(self._pool.why_lost(home))
            elif not self._send(call):
                self._waiting.append(call)

    def _send(self, call: _Call[Item]) -> bool:
        """Submit a call, unless no actor may take it now."""
        actor = self._choose(call)
        if actor is None:
            return False
        running = self._by_actor[actor]
        if call.is_last_try:
            self._reserved = {each: other for each, other in self._reserved.items() if other is not call}
            self._reserved[actor] = call
            if running:
                return False
        if not running:
            self._oldest_since[actor] = time.monotonic()
        call.actor = actor
        method, arguments = self._call_of(call.item)
        future = self._pool.submit(actor, method, *arguments).future()
        self._running[future] = running[future] = call
        future.add_done_callback(self._finished.put)
        return True

    def _choose(self, call: _Call[Item]) -> int | None:
        """The actor with the fewest calls that may take this one; None when there is none at present."""
        free = [
            actor
            for actor in self._candidates(call)
            if self._reserved.get(actor) in (None, call) and self._pool.is_available(actor)
        ]
        return min(
            free, key=lambda actor: (self._reserved.get(actor) is None, len(self._by_actor[actor])), default=None
        )

    def _candidates(self, call: _Call[Item]) -> Sequence[int]:
        if self._home is None:
            return range(len(self._pool))
        home = self._home(call.item)
        return range(len(self._pool)) if self._pool.is_lost(home) and not self._only_at_home else [home]

    def _results(self, block: bool) -> Iterator[tuple[Item, Any]]:
        """Results of the calls that have finished; with `block`, wait for one or until `_next_look`."""
        finished = [self._finished.get_nowait() for _ in range(self._finished.qsize())]
        if block and not finished:
            with suppress(Empty):
                finished.append(self._finished.get(timeout=max(0.0, self._next_look - time.monotonic())))
        for future in finished:
            if future in self._running:
                yield from self._take(future)
        if time.monotonic() >= self._next_look:
            yield from self._restart_hung()

    def _take(self, future: Future[Any]) -> Iterator[tuple[Item, Any]]:
        """The result of a finished call, if it is not to be repeated."""
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        call, error = self._running[future], ""
        try:
            answer = future.result()
        except RayTaskError as raised:
            cause = raised.cause
            if isinstance(cause, ActorLost):
                self._pool.kill(call.actor)
                yield from self._lose(call.actor, first_line(cause))
                return
            if isinstance(cause, UserError) and not isinstance(cause, ReplyError):
                raise cause from raised
            error = message_of(cause)
        except RayError as raised:
            if is_death(raised):
                remedy = _LESS_ON_A_NODE if isinstance(raised, OutOfMemoryError) else ""
                yield from self._lose(call.actor, f"its process ended{reason(raised)}{remedy}")
                return
            error = first_line(raised)
        self._pool.note_answer(call.actor)
        self._remove(future)
        if not error and self._check is not None:
            try:
                self._check(call.item, answer)
            except ReplyError as fault:
                error = message_of(fault)
        if error:
            yield from self._fail(call, error)
        else:
            yield call.item, answer

    def _restart_hung(self) -> Iterator[tuple[Item, Any]]:
        for actor, running in enumerate(self._by_actor):
            # One that is done and was not taken, because the consumer was slow, is not late.
            if running and time.monotonic() >= self._deadline(actor) and not next(iter(running)).done():
                limit_s = self._pool.time_limit_s(actor)
                self._pool.kill(actor)
                why = f"no answer to its oldest call within {limit_s:g} s (cluster.step_timeout_s)"
                yield from self._lose(actor, why)
        now = time.monotonic()
        deadlines = [self._deadline(actor) for actor, running in enumerate(self._by_actor) if running]
        self._next_look = max(now + _MIN_WAIT_S, min([now + _MAX_WAIT_S, *deadlines]))

    def _deadline(self, actor: int) -> float:
        return self._oldest_since[actor] + self._pool.time_limit_s(actor)

    def _lose(self, actor: int, why: str) -> Iterator[tuple[Item, Any]]:
        """All calls of an actor whose process is gone have failed."""
        futures = list(self._by_actor[actor])
        self._pool.note_restart(actor, why, len(futures))
        for call in [self._remove(future) for future in futures]:
            yield from self._fail(call, why)

    def _fail(self, call: _Call[Item], why: str) -> Iterator[tuple[Item, Any]]:
        call.failures += 1
        if call.failures == TRIES:
            yield call.item, Failure(f"{self._pool.name(call.actor)}: {why}")
        else:
            self._waiting.append(call)

    def _remove(self, future: Future[Any]) -> _Call[Item]:
        call = self._running.pop(future)
        running = self._by_actor[call.actor]
        if next(iter(running)) is future:
            self._oldest_since[call.actor] = time.monotonic()
        del running[future]
        if self._reserved.get(call.actor) is call:
            del self._reserved[call.actor]
        return call


def call_each(pool: Pool, method: str, *arguments: Any) -> dict[int, Any]:
    """Call a method of every actor: answers of all but lost ones, by number.

    Raises ClusterError about the first one that failed `TRIES` times, or when all are lost.
    """
    answers: dict[int, Any] = {}
    dispatcher = Dispatcher[int](pool, lambda _: (method, arguments), home=lambda actor: actor, only_at_home=True)
    for actor, answer in dispatcher.run(range(len(pool)), len(pool)):
        if not isinstance(answer, Failure):
            answers[actor] = answer
        elif not pool.is_lost(actor):
            raise ClusterError(answer.error)
    if not answers:
        raise ClusterError(pool.why_lost(0))
    return dict(sorted(answers.items()))
