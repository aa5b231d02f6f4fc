"""A group of actors of one kind: calls go out few at a time, and what dies or hangs is replaced and asked again.

Ray restarts an actor that died. What it was doing, the driver gives out again: so each failure is counted against
the call that it met, and a call that fails `TRIES` times is given up. These rules make that fair:

- An actor hangs when its oldest call has been the oldest for `cluster.step_timeout_s` and has no answer. Actors take
  their calls in order, so the oldest one is at work and doesn't wait behind others, however long the queue is; one
  call that hangs while others finish becomes the oldest. An actor that was restarted has `cluster.start_timeout_s` on
  top until its first answer.
- Of an actor that died or hung every call has failed once, as nobody knows which one was to blame. So the last try of a
  call has an actor to itself: a question that kills engines takes no other question with it.
- An actor that was lost gets no call before it answers a first one without meaning: while Ray finds out that a node is
  dead, and starts its actors elsewhere, every call to them fails, and none is to blame. It has
  `cluster.start_timeout_s` for that.
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


@dataclass
class _Away:
    """An actor that was lost, and has not answered since."""

    back: Any
    """A call that Ray repeats until the actor answers."""
    since: float
    error: str | None = None
    """Why it can't come back."""


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
        """Actors that were replaced and have done no work since: their first call may load what they need."""
        self._away: dict[int, _Away] = {}
        self.restarts = 0
        """Deaths and hangs that calls met."""

    def __len__(self) -> int:
        return len(self.handles)

    def each(self, method: str, *arguments: Any) -> dict[int, Any]:
        """The answers of all actors but lost ones, by their numbers.

        Raises ClusterError about the first one that failed `TRIES` times, or when all are lost.
        """
        answers: dict[int, Any] = {}
        feed = _Feed[int](self, lambda _: (method, arguments), home=lambda index: index, at_home_only=True)
        for index, answer in feed.run(range(len(self)), len(self)):
            if not isinstance(answer, Failure):
                answers[index] = answer
            elif not self.is_lost(index):
                raise ClusterError(answer.error)
        if not answers:
            raise ClusterError(self.why_lost(0))
        return dict(sorted(answers.items()))

    def feed(
        self,
        items: Iterable[Any],
        ask: Ask[Any],
        max_in_flight: int,
        home: Callable[[Any], int] | None = None,
        check: Callable[[Any, Any], None] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Hand items to the least loaded actor, or to number `home(item)` unless that is lost, few at a time; yield
        (item, answer) as they finish, (item, Failure) when one is given up.

        An item that is a `stages.Failed` comes out as a Failure at once. `check(item, answer)` raises ReplyError when
        the answer is not one. Items are taken one by one and finished ones given back between two takings, so that a
        slow source (the stage before this one) doesn't hold results up.

        Raises what an actor raised when that is a UserError other than a ReplyError: it is not about one item. And
        ClusterError when actors were lost and don't come back.
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
        self._away[index] = _Away(self._greet(index), time.monotonic())
        note(f"{self.name(index)}: {why}; it is restarted, and the {num_calls} calls that it had count as failed")

    def is_here(self, index: int) -> bool:
        """Whether an actor takes calls; looks whether a lost one has come back."""
        import ray
        from ray.exceptions import RayError

        away = self._away.get(index)
        if away is None:
            return True
        if away.error is not None or not ray.wait([away.back], timeout=0)[0]:
            return False
        try:
            ray.get(away.back)
        except RayError as error:
            if calls.is_death(error):
                away.back = self._greet(index)
            else:
                away.error = first_line(error)
            return False
        del self._away[index]
        return True

    def look_for_absent(self) -> None:
        """Take note of lost actors that have come back."""
        for index in list(self._away):
            self.is_here(index)

    def coming_back(self) -> list[Any]:
        """Calls that end when lost actors are there again."""
        return [away.back for away in self._away.values() if away.error is None]

    def is_lost(self, index: int) -> bool:
        """Whether an actor that is away can't come back, or did not in time."""
        away = self._away.get(index)
        return away is not None and (away.error is not None or self._patience(away) <= 0)

    def await_one(self, indices: Iterable[int]) -> None:
        """Return when one of these actors may have come back, or is lost. Raises ClusterError when all are."""
        import ray

        away = {index: self._away[index] for index in indices if index in self._away}
        coming = {index: each for index, each in away.items() if not self.is_lost(index)}
        if coming:
            timeout = max(0.0, min(map(self._patience, coming.values())))
            ray.wait([each.back for each in coming.values()], timeout=timeout)
        elif away:
            raise ClusterError(self.why_lost(next(reversed(away))))

    def why_lost(self, index: int) -> str:
        """One line."""
        late = f"did not come back within {self._cluster.start_timeout_s:.0f} s (cluster.start_timeout_s)"
        return f"{self.name(index)} was lost: {self._away[index].error or late}"

    def _patience(self, away: _Away) -> float:
        return away.since + self._cluster.start_timeout_s - time.monotonic()

    def _greet(self, index: int) -> Any:
        return self.handles[index].busy_seconds.options(max_task_retries=-1).remote()

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
        self,
        pool: Pool,
        ask: Ask[Item],
        home: Callable[[Item], int] | None,
        check: Callable[[Item, Any], None] | None = None,
        at_home_only: bool = False,
    ) -> None:
        self._pool, self._ask, self._home, self._check = pool, ask, home, check
        self._at_home_only = at_home_only
        """Otherwise others stand in for an actor that is lost."""
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
            if self._at_home_only:
                yield from self._given_up()
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
        self._pool.look_for_absent()  # or `_finished` would be woken by one that is back, again and again
        self._waiting = [call for call in self._waiting if not self._give_out(call)]

    def _give_out(self, call: _Call[Item]) -> bool:
        """Submit a call, or leave it waiting for an actor that is to be alone with one."""
        here = [index for index in self._candidates(call) if self._pool.is_here(index)]
        free = [index for index in here if self._alone[index] in (None, call)]
        if not free:
            return False
        index = min(free, key=lambda index: (self._alone[index] is not call, self._load(index)))
        if call.is_last_try:
            self._alone = [None if other is call else other for other in self._alone]  # of one that went away
            self._alone[index] = call
            if self._load(index):
                return False
        if not self._load(index):
            self._since[index] = time.monotonic()
        call.index = index
        self._running[self._pool.submit(index, *self._ask(call.item))] = call
        return True

    def _candidates(self, call: _Call[Item]) -> Sequence[int]:
        everyone = range(len(self._pool))
        if self._home is None:
            return everyone
        home = self._home(call.item)
        return everyone if self._pool.is_lost(home) and not self._at_home_only else [home]

    def _load(self, index: int) -> int:
        return sum(call.index == index for call in self._running.values())

    def _finished(self, block: bool) -> Iterator[tuple[Item, Any]]:
        import ray

        if not self._running:
            return
        first = min(self._deadline(call.index) for call in self._running.values())
        timeout = max(0.0, first - time.monotonic()) if block else 0
        coming = self._pool.coming_back() if self._waiting else []
        done, _ = ray.wait([*self._running, *coming], num_returns=1, timeout=timeout)
        for reference in done:
            if reference in self._running:
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
