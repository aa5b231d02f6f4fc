"""The benchmark of sharing does the same runs in both ways, and says how their times compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from benchmarks import sharing
from maskdpo_ray.config.experiment import ArmRun, Experiment
from maskdpo_ray.errors import ConfigError

ROOT = Path(__file__).parents[3]


def given(folder: Path, **options: object) -> argparse.Namespace:
    return argparse.Namespace(**{"experiment": None, "seeds": None, "dir": str(folder), **options})


def write_ledger(run: ArmRun, seconds: float) -> None:
    folder = Path(run.config.run.dir) / run.name
    folder.mkdir(parents=True)
    opened = {"stage": "open", "time": 10.0, "schema": 3, "pid": 1, "host": "h", "versions": {}, "changed": {}}
    done = {"stage": "evaluate-heldout", "iteration": 0, "finished": 10 + seconds, "facts": {}, "files": {}, "logs": {}}
    (folder / "ledger.jsonl").write_text(f"{json.dumps(opened)}\n{json.dumps(done)}\n")


@pytest.mark.usefixtures("bundled_model")
def test_both_ways_do_the_same_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    started: list[tuple[str, int]] = []

    def separate(experiment: Experiment) -> float:
        for run in experiment.runs:
            started.append((run.name, run.config.run.iterations))
            write_ledger(run, 100.0)
        return 220.0

    def shared(file: Path, folder: Path) -> float:
        experiment = sharing.experiment_file.read(file, folder, tuple(sharing.METRICS))
        for run, seconds in zip(experiment.runs, (100.0, 40.0), strict=True):
            write_ledger(run, seconds)
        return 165.0

    monkeypatch.setattr(sharing, "separate", separate)
    monkeypatch.setattr(sharing, "shared", shared)
    outcomes = {name: [sharing.take_part(name, given(tmp_path))] for name in sharing.NAMES}
    assert started == [("masked-seed1", 1), ("unmasked-seed1", 1)]
    assert outcomes["shared"][0] == {"seconds": 165.0, "runs": {"masked-seed1": 100.0, "unmasked-seed1": 40.0}}
    assert not list(tmp_path.iterdir())
    found = sharing.report(outcomes)
    assert found["ratio"]["median"] == 0.75
    text = sharing.shown(found)
    assert "shared / separate: 0.75" in text and "unmasked-seed1" in text


@pytest.mark.parametrize("name", ["mask", "objectives"])
def test_an_experiment_is_taken_with_fewer_seeds(tmp_path: Path, name: str) -> None:
    """Base and recipes are found from wherever the copy lies."""
    file = ROOT / f"configs/experiments/{name}.yaml"
    copy = sharing.written(given(tmp_path, experiment=str(file), seeds=1), tmp_path)
    experiment, whole = (sharing.experiment_file.read(each, tmp_path, tuple(sharing.METRICS)) for each in (copy, file))
    assert copy.name == f"{name}.yaml" and experiment.seeds == whole.seeds[:1] and experiment.arms == whole.arms
    pairs = list(zip(experiment.runs, whole.runs, strict=False))
    assert len(pairs) == len(whole.arms) and all(one.config == other.config for one, other in pairs)
    assert yaml.safe_load(copy.read_text())["paper"]


def test_what_is_no_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        sharing.written(given(tmp_path, experiment="configs/smoke.yaml"), tmp_path)


def test_a_failed_run_ends_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing.command, "start", lambda run, folder: 3)
    file = sharing.written(given(tmp_path), tmp_path)
    experiment = sharing.experiment_file.read(file, tmp_path, tuple(sharing.METRICS))
    with pytest.raises(SystemExit, match="masked-seed1 ended with 3"):
        sharing.separate(experiment)
