"""Metrics over time: metrics.jsonl always, and the trackers that `logger` asks for.

The file is the truth. A tracker that can't start stops the run before it begins; one that fails later is said once and
counted.

Keys are paths: "timing/collect_s", "tokens/collect", "pairs/count", "train/loss", "idle/rollout", "restarts/rollout",
"eval/heldout/score". "total/collect" and "done/collect" say that a stage begins, and are in the file alone.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from maskdpo_ray.config.plugins import faults
from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.store.files import AppendFile
from maskdpo_ray.store.trackers import protocol as trackers
from maskdpo_ray.store.trackers.media import Build, Media
from maskdpo_ray.store.trackers.protocol import Feed, Tracked


class Tracker:
    """A context manager; nothing is written or connected before it is entered."""

    def __init__(self, run_folder: str | os.PathLike[str], logger: LoggerConfig, config: Mapping[str, Any]) -> None:
        """`config` is the resolved config as nested dicts, which trackers show."""
        self._tracked = Tracked(Path(run_folder), logger, config)
        self._file: AppendFile | None = None
        self._feeds: list[Feed] = []
        self._building = threading.Lock()
        self.step = 0
        """The step logged last; `stage` uses it when none is given."""

    def check(self) -> None:
        """Raise ConfigError, one line, when a tracker that is asked for can't be used."""
        for name, backend in trackers.build(self._tracked).items():
            with faults(f"logger.trackers: {name}"):
                backend.check()

    def __enter__(self) -> Tracker:
        self.check()
        self._file = AppendFile(self._tracked.folder / "metrics.jsonl")
        self._file.cut_torn()
        try:
            for name, backend in trackers.build(self._tracked).items():
                self._feeds.append(Feed(name, backend))
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line {"time": unix seconds, "step": step, **metrics}; NaN and infinity become null.

        Raises TypeError for a value that is no number, RunFolderError when the disk is full.
        """
        values = {name: _number(name, value) for name, value in metrics.items()}
        self._write(values, step)
        self.step = step
        for feed in self._feeds:
            feed.log({name: value for name, value in values.items() if value is not None}, step)

    def show(self, build: Build, step: int) -> None:
        """Let trackers show what `build` makes: once, in the thread of the first one that shows such, or never.

        `build` reads files that the run changes no more. What it raises is a failure of the tracker.
        """
        built = cache(build)

        def shared() -> Mapping[str, Media]:
            with self._building:
                return built()

        for feed in self._feeds:
            feed.show(shared, step)

    def _write(self, values: Mapping[str, float | None], step: int) -> None:
        if self._file is None:
            raise RuntimeError("the tracker is not entered: use `with Tracker(...) as tracker`")
        line = json.dumps({"time": round(time.time(), 3), "step": step, **values}, allow_nan=False, ensure_ascii=False)
        self._file.append(line.encode() + b"\n")

    @contextmanager
    def stage(self, name: str, step: int | None = None, total: int | None = None, done: int = 0) -> Iterator[None]:
        """Measure a stage; logs "timing/<name>_s" in seconds at its end, after a failure too.

        Its beginning is written for those who watch the files of a run (`report/progress.py`).

        Args:
            total: questions, examples or training steps that the stage consists of; None where nothing is counted.
            done: how many of them were done before.
        """
        step, start = self.step if step is None else step, time.monotonic()
        self._write({f"total/{name}": total, f"done/{name}": done}, step)
        try:
            yield
        finally:
            self.log({f"timing/{name}_s": time.monotonic() - start}, step)

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
            while self._feeds:
                self._feeds.pop().close(failed=kind is not None)
        finally:
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
