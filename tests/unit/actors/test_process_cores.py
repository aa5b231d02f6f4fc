"""Engines on one machine get cores of their own, as long as there are enough, and a dead one's are free again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import process

HOLD = """
import sys
from actors import process
print(process.claim_cores(2, process.Path(sys.argv[1])), flush=True)
input()
"""


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {6, 2, 4, 3})
    yield
    while process._held_cores:
        os.close(process._held_cores.pop())


def test_each_gets_its_own_until_they_run_out(tmp_path: Path) -> None:
    assert process.claim_cores(1, tmp_path) == [2]
    assert process.claim_cores(2, tmp_path) == [3, 4]
    assert process.claim_cores(2, tmp_path) == [2, 3]  # one is free, which does not suffice
    assert process.claim_cores(1, tmp_path) == [6]  # and stayed free
    assert process.claim_cores(1, tmp_path) == [2]


@pytest.mark.parametrize("count", [4, 9])
def test_more_than_there_are_is_all(tmp_path: Path, count: int) -> None:
    assert process.claim_cores(count, tmp_path) == [2, 3, 4, 6]
    assert process.claim_cores(count, tmp_path) == [2, 3, 4, 6]


def test_the_cores_of_a_killed_process_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = json.loads(other.stdout.readline())
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(theirs))
        assert process.claim_cores(1, tmp_path) == theirs[:1] and not process._held_cores
        other.kill()
    assert process.claim_cores(2, tmp_path) == theirs and len(process._held_cores) == 2
