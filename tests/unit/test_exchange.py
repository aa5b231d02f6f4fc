"""Messages between driver and engine: who is answered, when, and what becomes of calls when one fails."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from local_actor import Actor, waited
from ray.exceptions import ActorUnavailableError, RayActorError

from actors import calls, exchange
from actors.calls import Refused
from actors.exchange import Line
from maskdpo_ray.errors import ActorLost, DataError, RolloutError


class Odd:
    """It can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("odd",)


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


def test_a_forgotten_message_takes_no_answers(actor: Actor) -> None:
    """It still waits at the actor when a call begins that ends at once."""
    line = Line(actor.send)
    line.call("work", ("slow", 3600))
    line.flush()
    waited(lambda: actor.begun)
    line.reset()
    new = line.call("at_once", ("new",))
    line.flush()
    assert new.result(5) == ["new"]
