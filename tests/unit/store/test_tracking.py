"""Tracking: one readable line per call, whatever the numbers, and the same to trackers, whatever they do."""

import json
import math
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.store.tracking import Tracker

OFF = LoggerConfig()


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_time(folder):
    return [{name: value for name, value in line.items() if name != "time"} for line in lines(folder)]


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
    assert [line for line in without_time(tmp_path) if "timing/rollout_s" in line or "timing/train_s" in line] == [
        {"step": 2, "timing/rollout_s": 1.5},
        {"step": 2, "timing/train_s": 4.0},
    ]


def test_the_beginning_of_a_stage_is_in_the_file_alone(tmp_path, backends):
    with Tracker(tmp_path, backends, {}) as tracker:
        with tracker.stage("collect", 1, total=94, done=30):
            tracker.log({"x": 1}, 1)
        with tracker.stage("sync", 1):
            pass
    assert [line for line in without_time(tmp_path) if not any(name.startswith("timing") for name in line)] == [
        {"step": 1, "total/collect": 94, "done/collect": 30},
        {"step": 1, "x": 1},
        {"step": 1, "total/sync": None, "done/sync": 0},
    ]
    assert [sorted(metrics) for metrics, _ in Kept.all[0].logged] == [["x"], ["timing/collect_s"], ["timing/sync_s"]]


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


def test_a_tracker_is_imported_only_when_asked_for(tmp_path):
    code = (
        "import sys; from maskdpo_ray.store.tracking import Tracker\n"
        "from maskdpo_ray.config.schema import LoggerConfig\n"
        f"with Tracker({str(tmp_path)!r}, LoggerConfig(), {{}}) as t: t.log({{'x': 1}}, 0)\n"
        "assert not {'wandb', 'torch', 'mlflow', 'trackio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_trackers_get_what_the_file_gets_but_for_numbers_that_are_not_finite(tmp_path, backends):
    with Tracker(tmp_path, backends, {"train": {"beta": 0.1}}) as tracker:
        tracker.log({"train/loss": 0.5, "train/nothing": math.nan}, 3)
        with tracker.stage("train", 4):
            pass
    first, _, second = lines(tmp_path)
    good = Kept.all[0]
    assert good.logged == [({"train/loss": 0.5}, 3), ({"timing/train_s": second["timing/train_s"]}, 4)]
    assert good.ended == [False] and first["train/nothing"] is None
    assert good.config == {"train.beta": 0.1} and good.thread != threading.get_ident()


def test_a_failed_run_ends_as_one(tmp_path, backends):
    with pytest.raises(ZeroDivisionError), Tracker(tmp_path, backends, {}):
        raise ZeroDivisionError
    assert Kept.all[0].ended == [True]


def test_a_tracker_that_fails_is_said_once_and_counted_and_the_run_continues(tmp_path, backends, capfd):
    Kept.faulty_from = 2
    with Tracker(
        tmp_path, replace(backends, trackers=(*backends.trackers, f"python:{__name__}:Second")), {}
    ) as tracker:
        for step in range(6):
            tracker.log({"x": step}, step)
            time.sleep(0.02)  # the tracker's thread takes it
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracker ")]
    assert len(said) == 2 and "lost 4 of 6 lines of metrics.jsonl: OSError: no space" in said[1]
    assert "OSError: no space" in said[0] and said[0].endswith("the run continues, metrics.jsonl has everything")
    assert [line["x"] for line in lines(tmp_path)] == list(range(6))
    assert [step for _, step in Second.all[0].logged] == list(range(6))  # the other one has all


def test_after_ten_failures_in_a_row_nothing_more_is_tried(tmp_path, backends):
    Kept.faulty_from = 0
    with Tracker(tmp_path, backends, {}) as tracker:
        for step in range(30):
            tracker.log({"x": step}, step)
    assert Kept.all[0].tried == 10 and Kept.all[0].ended == [False]


def test_a_slow_tracker_delays_nothing(tmp_path, backends, capfd, monkeypatch):
    monkeypatch.setattr("maskdpo_ray.store.trackers.protocol.Feed.patience_s", 0.2)
    Kept.delay = 30.0
    start = time.monotonic()
    with Tracker(tmp_path, backends, {}) as tracker:
        for step in range(3):
            tracker.log({"x": step}, step)
    assert time.monotonic() - start < 5
    assert "lost 3 of 3 lines of metrics.jsonl: it took more than 0 s at the end" in capfd.readouterr().err


def test_a_tracker_that_cannot_start_stops_the_run_and_ends_the_others(tmp_path, backends):
    Second.refuses = True
    both = replace(backends, trackers=(*backends.trackers, f"python:{__name__}:Second"))
    with pytest.raises(ConfigError, match="^logger.trackers: expected python:.*:Second to start, got: no connection$"):
        Tracker(tmp_path, both, {}).__enter__()
    assert Kept.all[0].ended == [True]


class Kept:
    """A tracker that keeps what it gets."""

    all: list = []
    faulty_from, delay, refuses = 10**9, 0.0, False

    def __init__(self, tracked):
        self.config, self.logged, self.ended, self.tried, self.thread = tracked.flat_config(), [], [], 0, None

    def check(self):
        pass

    def start(self):
        if self.refuses:
            raise OSError("no\nconnection")
        type(self).all.append(self)

    def log(self, metrics, step):
        self.tried += 1
        time.sleep(self.delay)
        if step >= self.faulty_from:
            raise OSError("no space")
        self.thread = threading.get_ident()
        self.logged.append((dict(metrics), step))

    def close(self, failed):
        self.ended.append(failed)


class Second(Kept):
    """Another one."""


@pytest.fixture
def backends(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Kept.__module__])
    for kind in (Kept, Second):
        for name, value in {"all": [], "faulty_from": 10**9, "delay": 0.0, "refuses": False}.items():
            monkeypatch.setattr(kind, name, value, raising=False)
    return LoggerConfig(trackers=(f"python:{__name__}:Kept",))
