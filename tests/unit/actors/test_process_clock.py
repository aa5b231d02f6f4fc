"""Busy time: overlapping blocks count once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import process
from actors.process import BusyClock


class Time:
    now = 100.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Time]]:
    monkeypatch.setattr(process.time, "perf_counter", lambda: Time.now)
    Time.now = 100.0
    yield Time


def test_idle_time_does_not_count(time: type[Time]) -> None:
    busy = BusyClock()
    time.now += 5
    assert busy.seconds() == 0
    with busy:
        time.now += 2
        assert busy.seconds() == 2
    time.now += 5
    assert busy.seconds() == 2


def test_failed_work_ends(time: type[Time]) -> None:
    busy = BusyClock()
    with pytest.raises(RuntimeError), busy:
        time.now += 1
        raise RuntimeError
    time.now += 5
    assert busy.seconds() == 1


blocks = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=8)


@given(blocks)
def test_overlapping_blocks_count_once(spans: list[tuple[int, int]]) -> None:
    """Against the union of the blocks, second by second."""
    ends = [(start + length, -1) for start, length in spans]
    changes = sorted([*((start, 1) for start, _ in spans), *ends], key=lambda change: (change[0], -change[1]))
    busy = BusyClock()
    with pytest.MonkeyPatch.context() as patch:
        for at, change in changes:
            patch.setattr(process.time, "perf_counter", lambda at=at: float(at))
            busy.__enter__() if change == 1 else busy.__exit__()
    covered = {second for start, length in spans for second in range(start, start + length)}
    assert busy.seconds() == len(covered)
