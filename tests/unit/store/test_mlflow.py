"""MLflow: a store in a file that its own client reads."""

from __future__ import annotations

import math
from pathlib import Path

import example_media
import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.store.tracking import Tracker

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")


def test_its_client_finds_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs-of-one"
    folder.mkdir()
    logger = LoggerConfig(trackers=("mlflow",), wandb_project="facts", wandb_group="seeds")
    config = {"train": {"beta": 0.1, "long": "x" * 9000}, "annotation": {"options": {"judge": "http"}}}
    for start in (0, 2):  # resumed, and step 2 done again
        with Tracker(folder, logger, config) as tracker:
            for step in range(start, start + 3):
                tracker.log({"eval/heldout/score": 0.5 + step, "train/nothing": math.nan}, step)
    with Tracker(folder, logger, config) as tracker:
        tracker.show(lambda: example_media.MEDIA, 3)
    with pytest.raises(ZeroDivisionError), Tracker(folder, logger, config):
        raise ZeroDivisionError
    client = MlflowClient()
    experiment = client.get_experiment_by_name("facts")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["group"]) == ("runs-of-one", "FAILED", "seeds")
    assert run.data.params["train.beta"] == "0.1" and run.data.params["annotation.options"] == "{'judge': 'http'}"
    history = client.get_metric_history(run.info.run_id, "eval/heldout/score")
    assert sorted((point.step, point.value) for point in history) == [(step, 0.5 + step) for step in (0, 1, 2, 2, 3, 4)]
    assert set(run.data.metrics) == {"eval/heldout/score"}
    page = client.download_artifacts(run.info.run_id, "media/answers-00003.html", str(tmp_path))
    assert Path(page).read_text() == example_media.PAGE
    assert [Path(each.path).name.split("%")[-1] for each in client.list_artifacts(run.info.run_id, "images")]
