"""Tracking: one readable line per call, whatever the numbers; W&B really written in offline mode."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.store.tracking import Tracker

OFF = LoggerConfig()


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_per_call(tmp_path):
    with Tracker(tmp_path, OFF, {}) as tracker:
        tracker.log({"train/loss": 0.5, "tokens/rollout": 12}, 3)
        tracker.log({"a": math.nan, "b": math.inf, "c": np.float32(0.25), "d": np.int64(2)}, 4)
    first, second = lines(tmp_path)
    assert first.pop("time") > 1.6e9
    assert first == {"step": 3, "train/loss": 0.5, "tokens/rollout": 12}
    del second["time"]
    assert second == {"step": 4, "a": None, "b": None, "c": 0.25, "d": 2}


@pytest.mark.parametrize("value", ["0.5", True, None, [1.0]])
def test_only_numbers(tmp_path, value):
    with Tracker(tmp_path, OFF, {}) as tracker, pytest.raises(TypeError, match="metric 'x': expected a number"):
        tracker.log({"x": value}, 0)
    assert lines(tmp_path) == []


def test_stage_measures_seconds_after_a_failure_too(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("maskdpo_ray.store.tracking.time.monotonic", lambda: now[0])
    with Tracker(tmp_path, OFF, {}) as tracker:
        with tracker.stage("rollout", 2):
            now[0] += 1.5
        with pytest.raises(ZeroDivisionError), tracker.stage("train"):
            now[0] += 4
            raise ZeroDivisionError
    assert [(line["step"], line.get("timing/rollout_s"), line.get("timing/train_s")) for line in lines(tmp_path)] == [
        (2, 1.5, None),
        (2, None, 4.0),
    ]


def test_idle_is_the_share_without_work_of_each_group(tmp_path, monkeypatch):
    now, busy = [100.0], {"rollout": 7.0, "annotation": 0.0, "training": 3.0}
    monkeypatch.setattr("maskdpo_ray.store.tracking.time.monotonic", lambda: now[0])
    with Tracker(tmp_path, OFF, {}) as tracker, tracker.idle(2, lambda: dict(busy), lambda: {"rollout": 1}):
        now[0] += 8.0
        busy |= {"rollout": 13.0, "annotation": 8.5, "training": 3.0}
    (line,) = lines(tmp_path)
    del line["time"]
    assert line == {"step": 2, "idle/rollout": 0.25, "idle/annotation": 0.0, "idle/training": 1.0}


@pytest.mark.parametrize("after", [1.0, 9.0])  # counted from 0 again, whatever it came to
def test_idle_of_a_group_whose_actor_was_replaced_is_not_known(tmp_path, after):
    busy, restarts = {"rollout": 7.0, "annotation": 0.0}, {"rollout": 1, "annotation": 0}
    with Tracker(tmp_path, OFF, {}) as tracker, tracker.idle(2, lambda: dict(busy), lambda: dict(restarts)):
        busy["rollout"] = after
        restarts["rollout"] += 1
    (line,) = lines(tmp_path)
    assert "idle/annotation" in line and "idle/rollout" not in line


def test_a_resumed_run_appends_and_half_a_line_is_cut_off(tmp_path):
    for step in range(2):
        with Tracker(tmp_path, OFF, {}) as tracker:
            tracker.log({"x": step}, step)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"time": 1, "st')
    with Tracker(tmp_path, OFF, {}):
        pass
    assert [line["x"] for line in lines(tmp_path)] == [0, 1]


def test_logging_outside_the_context_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="not entered"):
        Tracker(tmp_path, OFF, {}).log({"x": 1}, 0)


def test_check_wants_a_key_for_online_only(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    Tracker(tmp_path, OFF, {}).check()
    Tracker(tmp_path, LoggerConfig(wandb_mode="offline"), {}).check()
    online = Tracker(tmp_path, LoggerConfig(wandb_mode="online"), {})
    with pytest.raises(ConfigError, match="^logger.wandb_mode: .*WANDB_API_KEY.*$"):
        online.check()
    with pytest.raises(ConfigError), online:
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    online.check()


def test_check_says_when_wandb_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        Tracker(tmp_path, LoggerConfig(wandb_mode="offline"), {}).check()
    Tracker(tmp_path, OFF, {}).check()


def test_wandb_is_imported_only_when_asked_for(tmp_path):
    code = (
        "import sys; from maskdpo_ray.store.tracking import Tracker\n"
        "from maskdpo_ray.config.schema import LoggerConfig\n"
        f"with Tracker({str(tmp_path)!r}, LoggerConfig(), {{}}) as t: t.log({{'x': 1}}, 0)\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wandb_offline_writes_into_the_run_folder_and_goes_on_as_the_same_run(tmp_path):
    logger = LoggerConfig(wandb_mode="offline", wandb_project="facts", wandb_group="seeds")
    for step in (5, 3):  # W&B would drop step 3 after step 5 on its own step axis
        with Tracker(tmp_path, logger, {"train": {"beta": 0.1}}) as tracker:
            tracker.log({"train/loss": 0.5, "train/nothing": math.nan}, step)
            tracker.log({f"eval/heldout/score_{step}": 0.75}, step - 1)
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = (tmp_path / "wandb" / "run-id").read_text().strip()
    assert runs and {file.stem for file in runs} == {f"run-{run_id}"}
    written = b"".join(file.read_bytes() for file in runs)
    for text in (b"train/loss", b"eval/heldout/score_5", b"eval/heldout/score_3", b"facts", b"seeds", b"beta"):
        assert text in written
    assert [line["step"] for line in lines(tmp_path)] == [5, 4, 3, 2]


def test_what_wandb_raises_is_one_line(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no\nconnection")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match="^logger.wandb_mode: expected W&B to start, got: no connection$"):
        Tracker(tmp_path, LoggerConfig(wandb_mode="offline"), {}).__enter__()
