"""Metrics over time: metrics.jsonl always, Weights & Biases when asked for.

Keys are paths: "timing/collect_s", "tokens/collect", "pairs/count", "train/loss", "idle/rollout", "restarts/rollout",
"eval/heldout/score".
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError, one_line
from maskdpo_ray.store.files import AppendFile


class Tracker:
    """A context manager; nothing is written or connected before it is entered."""

    def __init__(self, run_folder: str | os.PathLike[str], logger: LoggerConfig, config: Mapping[str, Any]) -> None:
        """`config` is the resolved config as nested dicts, shown in W&B."""
        self._folder = Path(run_folder)
        self._logger = logger
        self._config = dict(config)
        self._file: AppendFile | None = None
        self._wandb_run: Any = None
        self.step = 0
        """The step logged last; `stage` uses it when none is given."""

    def check(self) -> None:
        """Raise ConfigError, one line, when W&B is asked for and can't be used."""
        mode = self._logger.wandb_mode
        if mode == "disabled":
            return
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                f"logger.wandb_mode: expected the package wandb for {mode!r}, got none; "
                "pip install wandb, or use disabled"
            )
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise ConfigError(
                "logger.wandb_mode: expected the environment variable WANDB_API_KEY for 'online', got none; "
                "set it, or use offline and `wandb sync` later"
            )

    def __enter__(self) -> Tracker:
        self.check()
        self._file = AppendFile(self._folder / "metrics.jsonl")
        self._file.cut_torn()
        if self._logger.wandb_mode != "disabled":
            try:
                self._wandb_run = self._start_wandb()
            except BaseException:
                self._file.close()
                raise
        return self

    def _start_wandb(self) -> Any:
        import wandb

        folder = self._folder / "wandb"
        folder.mkdir(exist_ok=True)
        id_file = folder / "run-id"  # a resumed run continues the same W&B run
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:12] + "\n")
        try:
            run = wandb.init(
                project=self._logger.wandb_project,
                group=self._logger.wandb_group,
                name=self._folder.name,
                id=id_file.read_text().strip(),
                resume="allow" if self._logger.wandb_mode == "online" else None,
                mode=self._logger.wandb_mode,
                dir=str(self._folder),
                config=self._config,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:  # no connection, a key that it does not know
            raise ConfigError(f"logger.wandb_mode: expected W&B to start, got: {one_line(error)}") from error
        # Own step axis: W&B drops what is logged at an earlier step, which a resumed stage does.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line {"time": unix seconds, "step": step, **metrics}; NaN and infinity become null.

        Raises TypeError for a value that is no number, RunFolderError when the disk is full.
        """
        if self._file is None:
            raise RuntimeError("the tracker is not entered: use `with Tracker(...) as tracker`")
        values = {name: _number(name, value) for name, value in metrics.items()}
        line = json.dumps({"time": round(time.time(), 3), "step": step, **values}, allow_nan=False, ensure_ascii=False)
        self._file.append(line.encode() + b"\n")
        self.step = step
        if self._wandb_run is not None:
            self._wandb_run.log({"step": step, **{name: value for name, value in values.items() if value is not None}})

    @contextmanager
    def stage(self, name: str, step: int | None = None) -> Iterator[None]:
        """Measure a stage; logs "timing/<name>_s" in seconds at its end, after a failure too."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.log({f"timing/{name}_s": time.monotonic() - start}, self.step if step is None else step)

    @contextmanager
    def idle(
        self, step: int, busy_seconds: Callable[[], Mapping[str, float]], restarts: Callable[[], Mapping[str, int]]
    ) -> Iterator[None]:
        """Measure a block; logs "idle/<group>" at its end: the share of it in which a group of actors had no work.

        Args:
            busy_seconds: per group, seconds of work since some moment in the past, mean over its actors.
            restarts: per group, actors that had to be replaced. A group in which this grows is left out: nobody
                knows how long those that are gone had worked.
        """
        before, earlier, start = busy_seconds(), restarts(), time.monotonic()
        yield
        elapsed, after, later = time.monotonic() - start, busy_seconds(), restarts()
        whole = [group for group in after if earlier.get(group) == later.get(group)]
        # A group's clock may run on while the other is read.
        idle = {f"idle/{group}": 1 - (after[group] - before[group]) / elapsed for group in whole}
        self.log({name: min(max(share, 0.0), 1.0) for name, share in idle.items()}, step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._wandb_run is not None:
                import wandb

                self._wandb_run.finish(exit_code=0 if kind is None else 1)
                wandb.teardown()  # ends W&B's own process
        finally:
            self._wandb_run = None
            if self._file is not None:
                self._file.close()
                self._file = None


def _number(name: str, value: Any) -> float | int | None:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"metric {name!r}: expected a number, got {type(value).__name__}")
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
