"""Waiting for actors: what is said meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from actors import calls
from maskdpo_ray.errors import ClusterError


def test_a_line_every_so_often_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, waits = [0.0], []

    def wait(waiting: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        waits.append(timeout)
        now[0] += timeout
        return [], waiting

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(calls.time, "monotonic", lambda: now[0])
    with pytest.raises(ClusterError, match="^judges 0: could not start within 70 s"):
        calls.gather(["one", "other"], 70, "judges", "start", note_s=30)
    assert waits == [30, 30, 10]
    assert capsys.readouterr().err.splitlines() == [
        "judges: 2 of 2 did not start yet, after 30 of at most 70 s",
        "judges: 2 of 2 did not start yet, after 60 of at most 70 s",
    ]


def test_nothing_is_said_without_need(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wait(waiting: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return waiting[:1], waiting[1:]

    def get(references: Any, *_: Any) -> Any:
        return references

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(calls, "get", get)
    assert calls.gather(["one", "other"], 70, "judges", "start", note_s=30) == ["one", "other"]
    assert capsys.readouterr().err == ""
