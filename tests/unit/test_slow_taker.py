"""A feed whose results are taken slowly: its actors have work meanwhile, and none is taken for hung."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from local_actor import Actor, Handle, waited

from actors import feed
from actors import pool as pool_module
from actors.exchange import Call
from actors.pool import Pool
from maskdpo_ray.config import ClusterConfig


@pytest.fixture
def two_actors(actor: Actor) -> Iterator[list[Actor]]:
    other = Actor()
    yield [actor, other]
    other.stop()


def late_pool(actors: list[Actor], monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Whose actors may take a second."""
    monkeypatch.setattr(pool_module, "_FETCH_S", 1.0)
    monkeypatch.setattr(feed, "_PAUSE_S", 0.05)
    pool = Pool([Handle(actor) for actor in actors], "engine", ClusterConfig(step_timeout_s=1), exchanges=True)
    monkeypatch.setattr(pool, "end", ended)
    return pool


def ended(index: int) -> None:
    """In place of `Pool.end`."""
    raise TimeoutError(index)


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


def test_a_call_that_hangs_while_others_end_is_not_waited_for(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, taken = late_pool([actor], monkeypatch), []
    items = ["stuck", *map(str, range(60))]
    with pytest.raises(TimeoutError, match="0"):
        for item, _ in pool.feed(items, lambda item: ("work", (item, 3600 if item == "stuck" else 0.2)), 3):
            taken.append(item)
    assert 8 <= len(taken) < 30
