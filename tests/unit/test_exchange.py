"""Messages between driver and engine without Ray: an event loop in a thread stands for the actor's process."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError

from actors import calls, exchange, feed
from actors import pool as pool_module
from actors.calls import Refused
from actors.exchange import Call, Exchange, Line
from actors.pool import Pool
from maskdpo_ray.config import ClusterConfig
from maskdpo_ray.errors import ActorLost, DataError, RolloutError


class Odd:
    """It can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("odd",)


class Actor:
    """What an engine is to its pool: method.options().remote() returns something with a future."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.messages: list[tuple[str | None, list[Call]]] = []
        self.replies: list[Any] = []
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.killed = 0
        self.restart()

    def stop(self) -> None:
        """With all that it does."""
        asyncio.run_coroutine_threadsafe(stopped(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def restart(self) -> None:
        """As a new process, which knows of nothing."""
        self.exchange_of_it = Exchange()

    async def exchange(self, life: str | None, calls: list[Call]) -> Any:
        return await self.exchange_of_it.take(partial(getattr, self), life, calls)

    async def work(self, what: Any, seconds: float) -> Any:
        self.begun.append(what)
        await asyncio.sleep(seconds)
        if isinstance(what, BaseException):
            raise what
        self.ended.append(what)
        return [what] if isinstance(what, str) else what

    def send(self, life: str | None, calls: list[Call]) -> Future[Any]:
        self.messages.append((life, calls))
        reply = asyncio.run_coroutine_threadsafe(self.exchange(life, calls), self.loop)
        reply.add_done_callback(lambda ended: ended.exception() or self.replies.append(ended.result()[1]))
        return reply

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody is to call {name}")


@pytest.fixture
def actor() -> Iterator[Actor]:
    actor = Actor()
    yield actor
    actor.stop()


@pytest.fixture
def two_actors() -> Iterator[list[Actor]]:
    actors = [Actor(), Actor()]
    yield actors
    for actor in actors:
        actor.stop()


async def stopped() -> None:
    """Return when nothing runs on this loop any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def waited(condition: Any) -> None:
    """Return when it holds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("seed", range(8))
def test_every_call_is_answered_once(actor: Actor, seed: int) -> None:
    """Whenever it is sent, however many others end at the same time, and with several messages under way."""
    draw, line = random.Random(seed), Line(actor.send)
    futures: dict[str, Future[Any]] = {}
    for number in range(200):
        futures[f"q{number}"] = line.call("work", (f"q{number}", draw.choice((0, 0, 0.001, 0.02))))
        if draw.random() < 0.3:
            line.flush()
        if draw.random() < 0.1:
            time.sleep(0.005)
    end = time.monotonic() + 20
    while not all(future.done() for future in futures.values()):
        line.flush()
        time.sleep(0.001)
        assert time.monotonic() < end
    assert {name: future.result() for name, future in futures.items()} == {name: [name] for name in futures}
    assert sorted(actor.begun) == sorted(futures)


def test_calls_wait_for_a_message_and_go_together(actor: Actor) -> None:
    line = Line(actor.send)
    futures = [line.call("work", (f"q{number}", 0)) for number in range(5)]
    assert actor.messages == []
    line.flush()
    line.flush()
    assert [future.result(5) for future in futures] == [[f"q{number}"] for number in range(5)]
    assert [len(calls) for _, calls in actor.messages] == [5]


def test_many_calls_do_not_wait(actor: Actor) -> None:
    line = Line(actor.send)
    for number in range(exchange.MOST_CALLS + 3):
        line.call("work", (f"q{number}", 0))
    assert [len(calls) for _, calls in actor.messages] == [exchange.MOST_CALLS]


def test_a_quick_call_does_not_wait_for_a_slow_one(actor: Actor) -> None:
    line = Line(actor.send)
    slow, quick = line.call("work", ("slow", 5)), line.call("work", ("quick", 0.01))
    line.flush()
    assert quick.result(2) == ["quick"]
    assert not slow.done()


def test_a_new_call_begins_while_a_message_waits_which_then_comes_back_empty(actor: Actor) -> None:
    line = Line(actor.send)
    slow = line.call("work", ("slow", 0.5))
    line.flush()
    waited(lambda: actor.begun)
    quick = line.call("work", ("quick", 0.01))
    line.flush()
    assert quick.result(0.4) == ["quick"]
    waited(lambda: len(actor.replies) == 2)
    assert [len(reply) for reply in actor.replies] == [0, 1]
    line.flush()
    assert slow.result(2) == ["slow"]


def test_what_has_ended_meanwhile_comes_in_one_message(actor: Actor) -> None:
    """As often as the driver asks, not as often as a call ends."""
    line = Line(actor.send)
    futures = [line.call("work", (f"q{number}", 0.01 * number)) for number in range(12)]
    line.flush()
    futures[0].result(5)
    waited(lambda: len(actor.ended) == 12)
    assert sum(future.done() for future in futures) < 12
    line.flush()
    assert [future.result(5) for future in futures] == [[f"q{number}"] for number in range(12)]
    assert len(actor.messages) == 2


def test_nothing_is_asked_of_an_actor_that_has_nothing_to_do(actor: Actor) -> None:
    line = Line(actor.send)
    line.flush()
    future = line.call("work", ("q", 0))
    line.flush()
    future.result(5)
    line.flush()
    assert len(actor.messages) == 1


def test_large_answers_are_shared_out_over_messages(actor: Actor) -> None:
    """Ray keeps large replies on the actor's node, where they are lost with it."""
    line = Line(actor.send)
    answers = ["a" * 40_000, "b" * 40_000, "c" * 40_000, "d" * 200_000, "e"]
    futures = [line.call("work", (answer, 0)) for answer in answers]
    line.flush()
    waited(lambda: len(actor.ended) == 5)
    while not all(future.done() for future in futures):
        line.flush()
        time.sleep(0.001)
    assert [future.result() for future in futures] == [[answer] for answer in answers]
    sizes = [sum(len(answer) for _, answer in reply) for reply in actor.replies]
    assert max(size for reply, size in zip(actor.replies, sizes, strict=True) if len(reply) > 1) < 100_000
    assert len(actor.replies) >= 3


@pytest.mark.parametrize(
    ("raised", "error"),
    [(RolloutError("no answer\nat all"), "no answer at all"), (RuntimeError("broken"), "RuntimeError: broken")],
)
def test_what_is_about_a_question_is_its_answer(actor: Actor, raised: Exception, error: str) -> None:
    line = Line(actor.send)
    bad, good = line.call("work", (raised, 0)), line.call("work", ("good", 0))
    line.flush()
    assert bad.result(5) == Refused(error)
    line.flush()
    assert good.result(5) == ["good"]


def test_an_answer_that_cannot_be_pickled_is_refused(actor: Actor) -> None:
    line = Line(actor.send)
    future = line.call("work", (threading.Lock(), 0))
    line.flush()
    assert "pickle" in future.result(5).error


def test_an_answer_that_cannot_be_unpickled_is_an_error(actor: Actor) -> None:
    line = Line(actor.send)
    future = line.call("work", (Odd(), 0))
    line.flush()
    with pytest.raises(ValueError, match="odd"):
        future.result(5)


def test_a_user_error_is_of_its_call(actor: Actor) -> None:
    line = Line(actor.send)
    bad, good = line.call("work", (DataError("bad question"), 0)), line.call("work", ("good", 0.05))
    line.flush()
    with pytest.raises(DataError, match="bad question"):
        bad.result(5)
    line.flush()
    assert good.result(5) == ["good"]


def test_a_cancelled_call_is_refused(actor: Actor) -> None:
    line = Line(actor.send)
    future = line.call("work", (asyncio.CancelledError(), 0))
    line.flush()
    assert future.result(5) == Refused("CancelledError: CancelledError")


def test_calls_that_a_restarted_actor_does_not_know_have_died(actor: Actor) -> None:
    line = Line(actor.send)
    first, lost = line.call("work", ("first", 0)), line.call("work", ("lost", 3600))
    line.flush()
    first.result(5)
    actor.restart()
    line.flush()
    with pytest.raises(RayActorError) as died:
        lost.result(5)
    assert calls.is_death(died.value)
    again = line.call("work", ("again", 0))
    line.flush()
    assert again.result(5) == ["again"]


def test_calls_fail_with_the_message_that_does(actor: Actor) -> None:
    """With Ray's own error where the actor has died, and otherwise so that it is replaced, as it is still at them."""

    def error_of(error: Exception) -> BaseException | None:
        reply: Future[Any] = Future()
        line = Line(lambda life, calls: reply)
        futures = [line.call("work", ("q", 0)), line.call("work", ("r", 0))]
        line.flush()
        reply.set_exception(error)
        assert futures[0].exception(5) is futures[1].exception(5)
        return futures[0].exception(5)

    died = ActorUnavailableError("gone", None)
    assert error_of(died) is died
    assert isinstance(error_of(ValueError("too large")), ActorLost)


def test_forgotten_calls_are_not_sent_and_their_answers_go_nowhere(actor: Actor) -> None:
    line = Line(actor.send)
    sent = line.call("work", ("sent", 0.05))
    line.flush()
    unsent = line.call("work", ("unsent", 0))
    line.reset()
    new = line.call("work", ("new", 0.1))
    line.flush()
    assert new.result(5) == ["new"]
    assert not sent.done()
    assert not unsent.done()
    assert "unsent" not in actor.begun


class Handle:
    """A Ray handle of an `Actor`."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        assert name == "exchange", f"{name} is called: the actor was taken for lost"
        return self

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, life: str | None, calls: list[Call]) -> Handle:
        self._reply = self._actor.send(life, calls)
        return self

    def future(self) -> Future[Any]:
        return self._reply


def late_pool(actors: list[Actor], monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Whose actors may take a second."""
    monkeypatch.setattr(pool_module, "_FETCH_S", 1.0)
    monkeypatch.setattr(feed, "_PAUSE_S", 0.05)
    return Pool([Handle(actor) for actor in actors], "engine", ClusterConfig(step_timeout_s=1), exchanges=True)


def test_answers_that_were_not_fetched_in_time_are_not_late(
    two_actors: list[Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes results may be slower than `step_timeout_s`, while finished answers wait at their actor."""
    pool, seconds, taken = late_pool(two_actors, monkeypatch), (0.3, 0.01, 0.1), []
    for item, _ in pool.feed(range(3), lambda item: ("work", (item, seconds[item])), max_in_flight=3):
        taken.append(item)
        if item == 1:
            time.sleep(2)
    assert two_actors[0].begun == [0, 2]  # whose first message brings the second one's answer, during that sleep
    assert taken == [1, 2, 0]
    assert pool.restarts == 0


def test_answers_that_are_just_being_fetched_are_not_late(
    two_actors: list[Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such a wait, the results that have come are taken first, while other answers are asked for."""
    pool, seconds, taken = late_pool(two_actors, monkeypatch), (0.6, 0.3, 0.25, 0.25), []
    slow = two_actors[0]

    async def exchange(life: str | None, calls: list[Call]) -> Any:
        reply = await Actor.exchange(slow, life, calls)
        await asyncio.sleep(0.3 if taken else 0)  # the way back
        return reply

    slow.exchange = exchange
    for item, _ in pool.feed(range(4), lambda item: ("work", (item, seconds[item])), max_in_flight=4):
        taken.append(item)
        if len(taken) == 1:
            waited(lambda: slow.replies and two_actors[1].replies)  # both are there, and are taken one after the other
            time.sleep(2)
    assert sorted(taken) == [0, 1, 2, 3]
    assert pool.restarts == 0


def test_answers_behind_large_ones_are_not_late(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them fills a message, and whoever takes them is slow: the oldest call's answer comes late."""
    pool = late_pool([actor], monkeypatch)
    items = ["oldest", *(letter * 95_000 for letter in "abcdefgh")]
    taken = []
    for item, _ in pool.feed(items, lambda item: ("work", (item, 0.1 * (item == "oldest"))), max_in_flight=9):
        taken.append(item[:6])
        time.sleep(0.3)
    assert sorted(taken) == sorted(item[:6] for item in items)
    assert taken[-1] == "oldest"
    assert pool.restarts == 0


def test_an_actor_that_says_nothing_is_ended(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its oldest call is late, though others have ended since that began."""
    pool, seconds, taken = late_pool([actor], monkeypatch), {"stuck": 3600.0, "quick": 0.1, "later": 0.8}, []

    def end(index: int) -> None:
        raise TimeoutError(index)

    monkeypatch.setattr(pool, "end", end)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="0"):
        for item, _ in pool.feed(seconds, lambda item: ("work", (item, seconds[item])), max_in_flight=3):
            taken.append(item)
    assert taken == ["quick", "later"]
    assert 1.0 < time.monotonic() - begin < 5.0


def test_new_calls_do_not_wait_for_whoever_takes_results(actor: Actor) -> None:
    """The next group may be slower: were they sent when it comes back for more, the two would work in turns."""
    pool = Pool([Handle(actor)], "engine", ClusterConfig(), exchanges=True)
    asked: list[str] = []

    def ask(item: int) -> tuple[str, tuple[Any, ...]]:
        asked.append(str(item))
        return "work", (str(item), 0.01 * (1 + item % 3))

    held = [(list(asked), time.sleep(0.1), list(actor.begun)) for _ in pool.feed(range(24), ask, max_in_flight=4)]
    assert len(held) == 24
    for given, _, begun in held[1:]:  # at the first result nobody knows yet
        assert begun == given


def test_calls_that_were_not_sent_in_time_are_not_late(
    two_actors: list[Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While whoever takes results holds the feed for longer than `step_timeout_s`."""
    pool = late_pool(two_actors, monkeypatch)

    def items() -> Iterator[int]:
        yield 0
        yield 1
        waited(lambda: two_actors[1].replies)  # so that its result comes before this is sent to the other actor
        yield 2

    taken = []
    for item, _ in pool.feed(items(), lambda item: ("work", (item, (0.01, 0.1, 0.8)[item])), max_in_flight=2):
        taken.append(item)
        if item == 1:
            assert two_actors[0].begun == [0]
            time.sleep(2)
    assert taken == [0, 1, 2]
    assert pool.restarts == 0
