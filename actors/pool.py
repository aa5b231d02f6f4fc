"""A group of actors of one kind: calls go out few at a time, and what dies or hangs is replaced and asked again.

Ray restarts an actor that died. What it was doing, the driver gives out again: so each failure is counted against
the call that it met, and a call that fails `TRIES` times is given up. These rules make that fair:

- An actor hangs when its oldest call has been the oldest for `cluster.step_timeout_s` and has no answer. Actors begin
  their calls in order, so the oldest one is at work and doesn't wait behind others, however long the queue is; one
  call that hangs while others finish becomes the oldest. An actor that was restarted has `cluster.start_timeout_s` on
  top until its first answer. Answers that wait to be fetched, because whoever takes them was slow, are not late: an
  engine must also have been asked, and said nothing, for some seconds, or have answered a call that it was given later
  than that.
- Of an actor that died or hung every call has failed once, as nobody knows which one was to blame. So the last try of a
  call has an actor to itself: a question that kills engines takes no other question with it.
- An actor that was lost gets no call before it answers a first one without meaning: while Ray finds out that a node is
  dead, and starts its actors elsewhere, every call to them fails, and none is to blame. It has
  `cluster.start_timeout_s` for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from actors import calls
from actors.calls import first_line
from actors.exchange import Call, Line
from actors.feed import TRIES, Ask, Failure, Feed
from maskdpo_ray.config import ClusterConfig
from maskdpo_ray.errors import ClusterError
from maskdpo_ray.report.progress import note

__all__ = ["TRIES", "Failure", "Pool"]

_FETCH_S = 5.0
"""Within which an actor that has answers gives some of them back, however busy its node is."""


@dataclass
class _Away:
    """An actor that was lost, and has not answered since."""

    back: Any
    """A call that Ray repeats until the actor answers."""
    since: float
    error: str | None = None
    """Why it can't come back."""


class Pool:
    """Handles of started actors, each with a method `until_gone` that never returns.

    One pass over it at a time.
    """

    def __init__(self, handles: Sequence[Any], what: str, cluster: ClusterConfig, exchanges: bool = False) -> None:
        """`what` an actor is called in messages; `exchanges`: it has a method `exchange`, see `exchange.py`."""
        self.handles = handles
        self._what = what
        self._cluster = cluster
        self._starting: set[int] = set()
        """Actors that were replaced and have done no work since: their first call may load what they need."""
        self._away: dict[int, _Away] = {}
        self._methods: dict[tuple[int, str], Any] = {}
        self._lines = [Line(self._sender(index)) for index in range(len(handles))] if exchanges else None
        self.restarts = 0
        """Deaths and hangs that calls met."""
        self.is_stopped = False
        """Set by another thread: passes end soon, without the rest of their answers."""

    def __len__(self) -> int:
        return len(self.handles)

    def each(self, method: str, *arguments: Any) -> dict[int, Any]:
        """The answers of all actors but lost ones, by their numbers.

        Raises ClusterError about the first one that failed `TRIES` times, or when all are lost.
        """
        answers: dict[int, Any] = {}
        feed = Feed[int](self, lambda _: (method, arguments), home=lambda index: index, at_home_only=True)
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
        together: int = 1,
    ) -> Iterator[tuple[Any, Any]]:
        """Hand items to the least loaded actor, or to number `home(item)` unless that is lost, few at a time; yield
        (item, answer) as they finish, (item, Failure) when one is given up.

        An item that is a `stages.Failed` comes out as a Failure at once. `check(item, answer)` raises ReplyError when
        the answer is not one. Items are taken one by one and finished ones given back between two takings, so that a
        slow source (the stage before this one) doesn't hold results up.

        Up to `together` items that are quickly done (a tenth of a second for all) go to an actor in one call, of its
        method `many`, while it is at work on others: a message costs more than labels by rules do. Each is answered,
        refused or tried again by itself; but if the actor dies or hangs, as above, the call that it met failed for all.

        Raises what an actor raised when that is a UserError other than a ReplyError: it is not about one item. And
        ClusterError when actors were lost and don't come back.
        """
        return Feed(self, ask, home, check, together=together).run(items, max_in_flight)

    def call(self, index: int, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """A call that may wait for `flush`; the answer, an error of Ray's, or a UserError (see `Line.call`)."""
        if self._lines is not None:
            return self._lines[index].call(method, arguments)
        return self.submit(index, method, arguments).future()

    def flush(self, indices: Iterable[int]) -> None:
        """Send to these actors what waits, and ask them what has ended."""
        if self._lines is not None:
            for index in indices:
                self._lines[index].flush()

    def is_silent(self, index: int) -> bool:
        """Whether the actor has had time to say what has ended, and said nothing."""
        return self._lines is None or self._lines[index].silent_s() > _FETCH_S

    def _sender(self, index: int) -> Callable[[str | None, list[Call]], Future[Any]]:
        return lambda life, new: self.submit(index, "exchange", (life, new)).future()

    def submit(self, index: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """A call that Ray does not repeat by itself."""
        bound = self._methods.get((index, method))
        if bound is None:  # which takes Ray a while
            bound = getattr(self.handles[index], method).options(max_task_retries=0)
            self._methods[index, method] = bound
        return bound.remote(*arguments)

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
        if self._lines is not None:
            self._lines[index].reset()
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

    def are_all_here(self) -> bool:
        """Whether no actor is away."""
        return not self._away

    def look_for_absent(self) -> None:
        """Take note of lost actors that have come back."""
        for index in list(self._away):
            self.is_here(index)

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
