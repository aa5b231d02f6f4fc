"""The iteration benchmark adds up what groups of actors were busy with, stage by stage, and shows medians over runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import fake_run
import pytest

from benchmarks import iteration
from maskdpo_ray import run
from maskdpo_ray.config import cli
from maskdpo_ray.errors import UserError
from maskdpo_ray.loop import Loop
from maskdpo_ray.store.tracking import Tracker

pytestmark = pytest.mark.usefixtures("no_fsync")


def test_busy_seconds_of_a_stage_go_to_its_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are asked twice a stage; at each asking they have been busy for 1, 2 and 4 seconds more."""
    asked, stages = count(1), []
    stage = Tracker.stage

    @contextmanager
    def noted(tracker: Tracker, name: str, step: int | None = None, *counts: Any) -> Iterator[None]:
        stages.append((name, step))
        with stage(tracker, name, step, *counts):
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


def test_a_turn_is_a_run_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_main(command: list[str]) -> None:
        config = cli.parse(command).config
        assert (config.run.name, config.run.seed) == ("run", 7)
        fake_run.run(Path(config.run.dir))

    monkeypatch.setattr(run, "main", fake_main)
    monkeypatch.setattr(Loop, "run", Loop.run)  # given back at the end, as the stage is
    monkeypatch.setattr(Tracker, "stage", Tracker.stage)
    file = tmp_path / "config.yaml"
    file.write_text("run: {name: own}\nmodel: {model_name_or_path: model}\n")
    words = ["--config", str(file), "--repeats", "1", "--run.seed", "7", "--run.dir", str(tmp_path / "runs")]
    given, command = iteration.parse(words)
    assert (given.repeats, given.contenders) == (1, ["ours"]) and "--repeats" not in command
    first, second = iteration.take_part(command)["iterations"]
    assert (first["iteration"], second["iteration"]) == (0, 1)
    assert second["seconds"]["iteration"] > 0
    assert second["idle"] == {"rollout": 1.0, "annotation": 1.0, "training": 1.0}  # fakes are never busy
    assert list((tmp_path / "runs").iterdir()) == []


def test_bad_options_are_refused_before_a_run(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: {model_name_or_path: model}\n")
    with pytest.raises(UserError, match="run.itrations"):
        iteration.parse(["--config", str(file), "--run.itrations", "2"])
    with pytest.raises(SystemExit):
        iteration.parse(["--config", str(file), "--dry_run"])


def test_medians_and_idle_shares_are_over_turns() -> None:
    def turn(whole: float, idle: dict[str, float]) -> dict[str, Any]:
        row = {"collect": 5.0, "rollout": 4.0, "annotation": 2.0, "training": 3.0, "sync": 1.0, "iteration": whole}
        return {"iterations": [{"iteration": 0, "seconds": row, "idle": idle}]}

    # In the second run an annotator was replaced.
    outcomes = {"ours": [turn(8.8, {"rollout": 0.5, "annotation": 0.75}), turn(8.0, {"rollout": 0.25}), turn(9.6, {})]}
    found = iteration.report(outcomes)
    (row,) = json.loads(json.dumps(found))["iterations"]
    assert row["seconds"]["iteration"] == {"median": 8.8, "min": 8.0, "max": 9.6}
    assert row[iteration.OVER_WORK] == pytest.approx({"median": 1.1, "min": 1.0, "max": 1.2})
    assert row["idle"]["rollout"] == {"median": 0.375, "min": 0.25, "max": 0.5}
    assert row["idle"]["annotation"]["median"] == 0.75
    shown = iteration.shown(found)
    assert "1.100 (1.000-1.200)" in shown and "| 0.75 (0.75-0.75) | 0.38 (0.25-0.50) |" in shown
