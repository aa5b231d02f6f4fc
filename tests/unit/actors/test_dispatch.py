"""Dispatcher over actors without Ray: one result for each item, tries that are counted, consumers that are slow."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RaySystemError, RayTaskError, TaskCancelledError

from actors import dispatch
from actors.dispatch import Dispatcher, Failure
from actors.pool import Pool
from maskdpo_ray.config.schema import ClusterConfig
from maskdpo_ray.errors import DataError, RolloutError


class Actor:
    """Stands for an async actor and its Ray handle: an event loop in a thread is its process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.begun: list[Any] = []
        self.killed = 0

    def stop(self) -> None:
        """Cancel its calls and end the thread."""
        asyncio.run_coroutine_threadsafe(stopped(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)

    @property
    def work(self) -> Actor:
        """The only method that may be called."""
        return self

    def options(self, **_: Any) -> Actor:
        return self

    def remote(self, what: Any, seconds: float) -> Reference:
        return Reference(asyncio.run_coroutine_threadsafe(self._work(what, seconds), self.loop))

    async def _work(self, what: Any, seconds: float) -> Any:
        self.begun.append(what)
        await asyncio.sleep(seconds)
        if isinstance(what, BaseException):
            raise what
        return [what]


class Reference:
    """Stands for Ray's reference to a result."""

    def __init__(self, result: Future[Any]) -> None:
        self._result = result

    def future(self) -> Future[Any]:
        return self._result


async def stopped() -> None:
    """Return when nothing runs on this loop any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def two_actors() -> Iterator[list[Actor]]:
    actors = [Actor(), Actor()]
    yield actors
    for actor in actors:
        actor.stop()


@pytest.fixture
def actor(two_actors: list[Actor]) -> Actor:
    return two_actors[0]


def pool_of(*actors: Actor, step_timeout_s: float = 60) -> Pool:
    return Pool(actors, "engine", ClusterConfig(step_timeout_s=step_timeout_s))


def impatient(actors: list[Actor], monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool whose actors hang after a second; killing one raises TimeoutError."""

    def kill(actor: int) -> None:
        raise TimeoutError(actor)

    monkeypatch.setattr(dispatch, "_MIN_WAIT_S", 0.05)
    pool = pool_of(*actors, step_timeout_s=1)
    monkeypatch.setattr(pool, "kill", kill)
    return pool


def raised(cause: Exception) -> RayTaskError:
    """Error of an actor as Ray passes it on."""
    return RayTaskError("work", "Traceback", cause)


@pytest.mark.parametrize("seed", range(4))
def test_every_item_gets_one_answer(two_actors: list[Actor], seed: int) -> None:
    """In any order, with no more in flight than allowed, from the actor with the fewest calls."""
    draw = random.Random(seed)
    seconds = {f"q{number}": draw.choice((0, 0, 0.001, 0.02)) for number in range(200)}
    drawn: list[str] = []
    answers: dict[str, Any] = {}

    def items() -> Iterator[str]:
        for name in seconds:
            assert len(drawn) - len(answers) < 7
            drawn.append(name)
            yield name

    for name, answer in Dispatcher[str](pool_of(*two_actors), lambda name: ("work", (name, seconds[name]))).run(
        items(), max_in_flight=7
    ):
        assert name not in answers
        answers[name] = answer
    assert answers == {name: [name] for name in seconds}
    begun = [actor.begun for actor in two_actors]
    assert sorted(begun[0] + begun[1]) == sorted(seconds) and min(map(len, begun)) > 50


def test_a_quick_call_does_not_wait_for_a_slow_one(actor: Actor) -> None:
    seconds = {"slow": 0.5, "quick": 0.01}
    found = Dispatcher[str](pool_of(actor), lambda name: ("work", (name, seconds[name]))).run(seconds, max_in_flight=2)
    assert [name for name, _ in found] == ["quick", "slow"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(RolloutError("no answer\nat all")), "no answer at all"),
        (raised(RuntimeError("broken")), "RuntimeError: broken"),
        (RaySystemError(ValueError("odd")), "System error: odd"),
        (TaskCancelledError(), "TaskCancelledError"),
    ],
)
def test_an_error_about_an_item_fails_that_item_after_three_tries(
    actor: Actor, error: Exception, expected: str
) -> None:
    """Raised by the actor, an answer that can't be unpickled, a cancelled call; others are answered."""
    items = [error, "good", "other"]
    found = dict(Dispatcher[Any](pool_of(actor), lambda item: ("work", (item, 0.01))).run(items, max_in_flight=3))
    failure = found.pop(error)
    assert isinstance(failure, Failure) and failure.error.startswith(f"engine 0: {expected}")
    assert found == {"good": ["good"], "other": ["other"]}
    assert actor.begun.count(error) == dispatch.TRIES


def test_an_answer_that_is_not_valid_is_asked_for_again(actor: Actor) -> None:
    checked: list[str] = []

    def check(item: str, answer: list[str]) -> None:
        checked.append(item)
        if item == "bad" or checked.count("odd") == 1:
            raise RolloutError(f"expected another answer to {item}")

    dispatcher = Dispatcher[str](pool_of(actor), lambda item: ("work", (item, 0)), check=check)
    found = dict(dispatcher.run(["odd", "bad", "good"], max_in_flight=1))
    assert found == {"odd": ["odd"], "bad": Failure("engine 0: expected another answer to bad"), "good": ["good"]}
    assert (actor.begun.count("odd"), actor.begun.count("bad")) == (2, 3)


def test_an_error_that_is_not_about_an_item_is_raised(actor: Actor) -> None:
    items = [raised(DataError("bad config")), "good"]
    with pytest.raises(DataError, match="bad config"):
        list(Dispatcher[Any](pool_of(actor), lambda item: ("work", (item, 0))).run(items, max_in_flight=1))


def test_all_calls_of_an_actor_that_died_have_failed_and_a_last_try_is_alone(
    actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two deaths leave two calls with one try each, which run one after the other."""
    pool, restarts, running, most = pool_of(actor), [], [0], [0]
    monkeypatch.setattr(pool, "note_restart", lambda *details: restarts.append(details))

    def call(item: str) -> tuple[str, tuple[Any, ...]]:
        if len(restarts) < 2 and item == "killer":
            return "work", (ActorUnavailableError("gone", None), 0.05)
        return "work", (item, 0.1)

    submit = pool.submit

    def counted(index: int, method: str, *arguments: Any) -> Any:
        reference = submit(index, method, *arguments)
        if len(restarts) == 2:
            running[0] += 1
            most[0] = max(most[0], running[0])
            reference.future().add_done_callback(lambda _: running.__setitem__(0, running[0] - 1))
        return reference

    monkeypatch.setattr(pool, "submit", counted)
    found = dict(Dispatcher[str](pool, call).run(["killer", "other"], max_in_flight=2))
    assert found == {"killer": ["killer"], "other": ["other"]}
    assert [(index, num_calls) for index, _, num_calls in restarts] == [(0, 2), (0, 2)]
    assert most == [1]


def test_a_call_that_hangs_while_others_finish_is_not_waited_for(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes the oldest, and has a second from then on."""
    taken, begin = [], time.monotonic()
    items = ["first", "stuck", *map(str, range(60))]
    seconds = {"first": 0.3, "stuck": 3600.0}
    with pytest.raises(TimeoutError, match="0"):
        for item, _ in Dispatcher[str](
            impatient([actor], monkeypatch), lambda item: ("work", (item, seconds.get(item, 0.2)))
        ).run(items, 3):
            taken.append(item)
    assert 1.2 < time.monotonic() - begin < 5.0
    assert 8 <= len(taken) < 40


def test_answers_that_are_not_taken_in_time_are_not_late(
    two_actors: list[Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes results, a training step or a slower group, may be slower than `step_timeout_s`."""
    pool, seconds, taken = impatient(two_actors, monkeypatch), (0.6, 0.01, 0.25, 0.3), []
    for item, _ in Dispatcher[int](pool, lambda item: ("work", (item, seconds[item]))).run(range(4), max_in_flight=4):
        taken.append(item)
        time.sleep(1.3 if len(taken) <= 2 else 0)
    assert sorted(taken) == [0, 1, 2, 3]
    assert pool.restarts == 0


def test_calls_begin_while_the_consumer_is_busy(actor: Actor) -> None:
    """The next group may be slower: were they sent when it comes back for more, the two would work in turns."""
    sent: list[str] = []

    def call(item: int) -> tuple[str, tuple[Any, ...]]:
        sent.append(str(item))
        return "work", (str(item), 0.01 * (1 + item % 3))

    results = Dispatcher[int](pool_of(actor), call).run(range(24), max_in_flight=4)
    held = [(list(sent), time.sleep(0.1), list(actor.begun)) for _ in results]
    assert len(held) == 24
    assert all(begun == given for given, _, begun in held)
