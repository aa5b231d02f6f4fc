"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.store.trackers.media import Histogram, Image, Media, Table, as_markdown
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

    def log_media(self, media: Mapping[str, Media], step: int) -> None:
        """Show tables as texts, histograms and pictures, at a step; TensorBoard has no pages."""
        import numpy as np

        for name, each in media.items():
            match each:
                case Table():
                    self._writer.add_text(name, _markdown(each), step)
                case Histogram():
                    self._writer.add_histogram(name, np.asarray(each.values), step)
                case Image():
                    self._writer.add_image(name, each.pixels(), step, dataformats="HWC")
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


def _markdown(table: Table) -> str:
    """The table in Markdown; nothing in it is markup."""
    rows = [table.columns, ["---"] * len(table.columns), *([_cell(value) for value in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return as_markdown(value)
    return "" if value is None else f"{value:.3f}"
