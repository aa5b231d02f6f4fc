"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from maskdpo_ray.store.trackers.media import Html, Image, Media
from maskdpo_ray.store.trackers.protocol import Tracked, require_package

_LONGEST, _MOST_PARAMS, _MOST_METRICS = 500, 100, 1000
"""Characters of a parameter, and how many of each a call takes."""


class MLflow:
    """A run where MLFLOW_TRACKING_URI says, or where MLflow puts it, in the experiment `logger.wandb_project`."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._client: Any = None
        self._run_id = ""

    def check(self) -> None:
        """Raise ConfigError without the package (mlflow, or mlflow-skinny for a server)."""
        require_package("mlflow", "mlflow")

    def start(self) -> None:
        """Continue the run that an earlier start made, or make one with the config as its parameters."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        file = self._tracked.own_folder("mlflow") / "run-id"
        if file.exists():
            self._run_id = file.read_text().strip()
            client.update_run(self._run_id, status="RUNNING")
            return
        name = self._tracked.logger.wandb_project
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        group = self._tracked.logger.wandb_group
        tags = {} if group is None else {"group": group}
        self._run_id = client.create_run(experiment, run_name=self._tracked.folder.name, tags=tags).info.run_id
        params = [Param(name, str(value)[:_LONGEST]) for name, value in self._tracked.flat_config().items()]
        for start in range(0, len(params), _MOST_PARAMS):
            client.log_batch(self._run_id, params=params[start : start + _MOST_PARAMS])
        file.write_text(f"{self._run_id}\n")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics at a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(name, value, now, step) for name, value in metrics.items()]
        for start in range(0, len(found), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=found[start : start + _MOST_METRICS])

    def log_media(self, media: Mapping[str, Media], step: int) -> None:
        """Add pictures at a step and pages as artifacts, such as media/heldout/answers-00001.html.

        Tables would need pandas, and a page has the same; MLflow has no histograms.
        """
        for name, each in media.items():
            match each:
                case Html():
                    self._client.log_text(self._run_id, each.text, f"{name}-{step:05d}.html")
                case Image():
                    self._client.log_image(self._run_id, each.pixels(), key=name, step=step)

    def close(self, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")
