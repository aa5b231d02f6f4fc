"""A stream drawn from by another thread: order, errors, bounds, and leaving it early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from maskdpo_ray.stages.background import BackgroundStream

WAIT_S = 30.0


def never_stopped() -> None:
    raise AssertionError("stop was called")


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_all_comes_in_order_and_is_not_stopped() -> None:
    with BackgroundStream(range(100), never_stopped, 3) as coming:
        until(lambda: coming.has_more)
        first = [*coming.ready()]
        assert first and first + [*coming.rest()] == [*range(100)]
        assert [*coming.ready()] == [*coming.rest()] == []


def test_an_empty_stream_ends() -> None:
    with BackgroundStream([], never_stopped, 1) as coming:
        assert [*coming.rest()] == []


def test_ready_waits_for_nothing() -> None:
    """Items that come later are the next call's; the stream is drawn from while nobody asks."""
    go, drawn = threading.Event(), []

    def stream() -> Iterator[int]:
        for number in range(2):
            drawn.append((number, threading.current_thread().name))
            yield number
            assert go.wait(WAIT_S)

    with BackgroundStream(stream(), never_stopped, 2) as coming:
        assert [*coming.ready()] in ([], [0])
        until(lambda: drawn)
        go.set()
        until(lambda: len(drawn) == 2)
        assert {name for _, name in drawn} == {"background-stream"}
        assert [*coming.rest()][-1:] == [1]


@pytest.mark.parametrize("most", [1, 3])
def test_at_most_so_many_wait(most: int) -> None:
    drawn = []

    def stream() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    with BackgroundStream(stream(), never_stopped, most) as coming:
        until(lambda: len(drawn) == most + 1)  # the last one stands before the full queue
        time.sleep(0.3)
        assert len(drawn) == most + 1
        assert [*coming.rest()] == [*range(20)]


@pytest.mark.parametrize("how", ["ready", "rest"])
def test_an_error_comes_after_what_came_before_it(how: str) -> None:
    def stream() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    got = []
    with pytest.raises(ValueError, match="no more"), BackgroundStream(stream(), never_stopped, 8) as coming:
        until(lambda: not coming._thread.is_alive())
        got.append(next(getattr(coming, how)()))
        got.extend(getattr(coming, how)())
    assert got == [1]


def test_left_early_the_stream_is_stopped_and_the_thread_ends() -> None:
    stopped = threading.Event()

    def stream() -> Iterator[int]:
        while not stopped.is_set():
            yield 0
            time.sleep(0.001)

    with pytest.raises(KeyError), BackgroundStream(stream(), stopped.set, 2) as coming:
        until(lambda: coming.has_more)
        raise KeyError("of the block")
    assert stopped.is_set() and not coming._thread.is_alive()


def test_left_early_with_a_full_queue() -> None:
    calls = []
    with pytest.raises(KeyError), BackgroundStream(range(9), lambda: calls.append(1), 1) as coming:
        until(lambda: coming.has_more)
        raise KeyError("of the block")
    assert calls == [1] and not coming._thread.is_alive()
