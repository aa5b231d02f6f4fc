"""Trackio: a local store that its own reader reads."""

from __future__ import annotations

import math
from pathlib import Path

import example_media
import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.store.tracking import Tracker


def test_its_reader_finds_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio-store"))  # read when it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    logger = LoggerConfig(trackers=("trackio",), wandb_project="facts")
    for start in (0, 2):  # resumed, and step 2 done again
        with Tracker(tmp_path, logger, {"train": {"beta": 0.1}}) as tracker:
            for step in range(start, start + 3):
                tracker.log({"train/loss": 0.5 + step, "train/nothing": math.nan}, step)
    with Tracker(tmp_path, logger, {}) as tracker:
        tracker.show(lambda: example_media.MEDIA, 7)
    (run,) = SQLiteStorage.get_runs("facts")
    assert run.startswith(f"{tmp_path.name}-")
    found = [
        (entry["step"], entry["train/loss"]) for entry in SQLiteStorage.get_logs("facts", run) if "train/loss" in entry
    ]
    assert sorted(found) == [(step, 0.5 + step) for step in (0, 1, 2, 2, 3, 4)]
    (shown,) = [entry for entry in SQLiteStorage.get_logs("facts", run) if entry["step"] == 7]
    assert {"media/table", "media/scores", "media/curve"} <= shown.keys() and "media/answers" not in shown
