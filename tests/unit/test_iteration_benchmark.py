"""The iteration benchmark adds up what groups of actors were busy with, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import fake_run
import pytest

from benchmarks import iteration
from maskdpo_ray.tracking import Tracker

pytestmark = pytest.mark.usefixtures("no_fsync")


def test_busy_seconds_of_a_stage_go_to_its_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are asked twice a stage; at each asking they have been busy for 1, 2 and 4 seconds more."""
    asked, stages = count(1), []
    stage = Tracker.stage

    @contextmanager
    def noted(tracker: Tracker, name: str, step: int | None = None) -> Iterator[None]:
        stages.append((name, step))
        with stage(tracker, name, step):
            yield

    def busy_seconds() -> dict[str, float]:
        number = next(asked)
        return {"rollout": 1.0 * number, "annotation": 2.0 * number, "training": 4.0 * number}

    monkeypatch.setattr(Tracker, "stage", noted)
    stopwatch = iteration.Stopwatch()
    stopwatch.watch(busy_seconds)
    fake_run.run(tmp_path)
    assert [step for name, step in stages if name == "iteration"] == [0, 1] == list(stopwatch.rows)
    for row in stopwatch.rows.values():
        assert (row["rollout"], row["annotation"]) == (1.0, 2.0)
        assert row["training"] == 8.0  # reference log-probs and steps
        assert row["iteration"] >= row["collect"] + row["sync"] > 0
        assert iteration.work(row) == 2.0 + 8.0 + row["sync"]


def test_shown() -> None:
    row = {"collect": 5.0, "rollout": 4.0, "annotation": 2.0, "training": 3.0, "sync": 1.0, "iteration": 8.8}
    assert iteration.shown({0: row}).splitlines()[1].split() == [
        "0",
        *(f"{row[c]:.2f}" for c in iteration.COLUMNS),
        "1.100",
    ]
