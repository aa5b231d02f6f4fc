"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.store.trackers.protocol import Tracked, require_package


class TensorBoard:
    """Event files in the run folder's `tensorboard/`; a resumed run adds one: `tensorboard --logdir runs`."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._writer: Any = None

    def check(self) -> None:
        """Raise ConfigError without the package."""
        require_package("tensorboard", "tensorboard")

    def start(self) -> None:
        """Open an event file."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._tracked.own_folder("tensorboard")))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics at a step, in float32."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()
