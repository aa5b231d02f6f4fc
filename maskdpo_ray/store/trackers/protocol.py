"""The protocol of trackers, their names, and their work in threads of their own."""

from __future__ import annotations

import importlib.util
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from maskdpo_ray import terminal
from maskdpo_ray.config.plugins import Slot
from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError, UserError, described, one_line
from maskdpo_ray.store.trackers.media import Build


@dataclass(frozen=True)
class Tracked:
    """A run as a tracker sees it."""

    folder: Path
    """The run folder; its name is the run's."""
    logger: LoggerConfig
    config: Mapping[str, Mapping[str, Any]]
    """The resolved config, {section: {option: value}}."""

    def flat_config(self) -> dict[str, Any]:
        """The config by dotted names."""
        return {f"{section}.{name}": value for section, of in self.config.items() for name, value in of.items()}

    def own_folder(self, name: str) -> Path:
        """A folder within the run folder, made if need be."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def kept_id(self, name: str) -> str:
        """An id of the run for the tracker of this name, the same whenever the run is resumed."""
        file = self.own_folder(name) / "run-id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex[:12] + "\n")
        return file.read_text().strip()


class Backend(Protocol):
    """A tracker: built of a `Tracked`, checked before anything starts, then started.

    `start`, `log` and `close` are called in one thread, which is the tracker's own. So is, where it has one,
    `log_media(media: Mapping[str, Media], step: int)`, which shows what it knows how to show and leaves out the rest.
    """

    def check(self) -> None:
        """Raise ConfigError, one line, when it can't be used: a missing package, no login. Writes nothing."""
        ...

    def start(self) -> None:
        """Begin, or continue, the run. Any exception stops ours before it begins."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add finite metrics; a resumed run may log at an earlier step again."""
        ...

    def close(self, failed: bool) -> None:
        """End the run; `failed`: by an exception."""
        ...


KNOWN = {
    name: (f"{__package__}.{name}", kind)
    for name, kind in {
        "mlflow": "MLflow",
        "tensorboard": "TensorBoard",
        "trackio": "Trackio",
        "wandb": "WeightsAndBiases",
    }.items()
}
"""Name -> (module, class)."""
_SLOT: Slot[Backend] = Slot("logger.trackers", "logger.trackers", KNOWN, ("check", "start", "log", "close"))


def build(tracked: Tracked) -> dict[str, Backend]:
    """The trackers that `logger` asks for, by name; nothing of them is imported that isn't ours.

    Raises ConfigError for an unknown name, with what it may mean.
    """
    logger = tracked.logger
    names = [name for name in logger.trackers if (name, logger.wandb_mode) != ("wandb", "disabled")]
    if logger.wandb_mode in ("offline", "online"):
        names.append("wandb")
    return {name: _SLOT.build(name, {"tracked": tracked}) for name in dict.fromkeys(names)}


def require_package(name: str, tracker: str) -> None:
    """Raise ConfigError when the package `name` of a tracker is not installed."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"logger.trackers: expected the package {name} for {tracker!r}, got none; pip install {name}")


class Feed:
    """A tracker in a thread of its own: however slow it is, or if it fails, the run continues."""

    patience_s = 60.0
    """Seconds that it has at the end for what it hasn't taken yet."""
    most_failures = 10
    """Failures in a row after which it gets nothing more."""

    def __init__(self, name: str, backend: Backend) -> None:
        """Start the tracker. Raises ConfigError, one line, when that fails."""
        self.name, self._backend = name, backend
        self._queue: SimpleQueue[tuple[dict[str, float] | Build, int] | bool] = SimpleQueue()
        self._num_given = self._num_taken = 0
        self._failure: str | None = None
        self._is_said = False
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()
        try:
            self._started.result()
        except UserError:
            raise
        except Exception as error:  # no connection, a login that it does not know
            raise ConfigError(f"logger.trackers: expected {name} to start, got: {one_line(error)}") from error

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Hand over finite metrics."""
        self._num_given += 1
        self._queue.put((metrics, step))
        self._say_failure()

    def show(self, build: Build, step: int) -> None:
        """Hand over what makes tables, pictures and such; without a call where the tracker shows none."""
        if hasattr(self._backend, "log_media"):
            self._queue.put((build, step))
            self._say_failure()

    def close(self, failed: bool) -> None:
        """Let the tracker end, and say how much it has lost."""
        self._queue.put(failed)
        self._thread.join(self.patience_s)
        self._say_failure()
        lost = self._num_given - self._num_taken
        if lost:
            reason = self._failure or f"it took more than {self.patience_s:.0f} s at the end"
            terminal.note(f"tracker {self.name}: lost {lost} of {self._num_given} lines of metrics.jsonl: {reason}")

    def _say_failure(self) -> None:
        if self._failure is not None and not self._is_said:
            self._is_said = True
            terminal.note(f"tracker {self.name}: {self._failure}; the run continues, metrics.jsonl has everything")

    def _work(self) -> None:
        try:
            self._backend.start()
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        in_a_row = 0
        while not isinstance(given := self._queue.get(), bool):
            if in_a_row == self.most_failures:
                continue
            try:
                self._take(*given)
                in_a_row = 0
            except Exception as error:
                self._failure = described(error)
                in_a_row += 1
        try:
            self._backend.close(given)
        except Exception as error:
            self._failure = described(error)

    def _take(self, given: dict[str, float] | Build, step: int) -> None:
        if callable(given):
            self._backend.log_media(given(), step)  # type: ignore[attr-defined]
        else:
            self._backend.log(given, step)
            self._num_taken += 1
