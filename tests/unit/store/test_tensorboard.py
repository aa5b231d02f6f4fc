"""TensorBoard: event files that its own reader reads."""

from __future__ import annotations

import math
from pathlib import Path

import example_media
import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.store.tracking import Tracker

pytest.importorskip("tensorboard")


def test_its_reader_finds_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start in (0, 2):  # resumed, and step 2 done again
        with Tracker(tmp_path, LoggerConfig(trackers=("tensorboard",)), {}) as tracker:
            for step in range(start, start + 3):
                tracker.log({"train/loss": 0.5 + step, "train/nothing": math.nan}, step)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Tags()["scalars"] == ["train/loss"]
    points = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert points == [(step, 0.5 + step) for step in (0, 1, 2, 2, 3, 4)]


def test_its_reader_finds_tables_histograms_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracker(tmp_path, LoggerConfig(trackers=("tensorboard",)), {}) as tracker:
        tracker.show(lambda: example_media.MEDIA, 3)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    tags = found.Tags()
    assert (tags["histograms"], tags["images"]) == (["media/scores"], ["media/curve"])
    (table,) = found.Tensors("media/table/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert table.step == 3 and text.splitlines()[:3] == [
        "| question | before | before: score |",
        "| --- | --- | --- |",
        "| q1 | &#10003; Right. &#10007; &#60;script&#62; &#124; &#42;x&#42; &#95;y | 0.500 |",
    ]
    (picture,) = found.Images("media/curve")
    assert (picture.width, picture.height) == (2, 1)
