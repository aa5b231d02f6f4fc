"""Trackio."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from maskdpo_ray.store.trackers.media import Histogram, Html, Image, Media, Table, as_markdown
from maskdpo_ray.store.trackers.protocol import Tracked, require_package


class Trackio:
    """A run in the project `logger.wandb_project`: local (TRACKIO_DIR), or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL
    says.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._run: Any = None

    def check(self) -> None:
        """Raise ConfigError without the package."""
        require_package("trackio", "trackio")

    def start(self) -> None:
        """Begin the run, or continue that of the same name and id."""
        import trackio

        logger = self._tracked.logger
        # Run folders of different places may share a name.
        name = f"{self._tracked.folder.name}-{self._tracked.kept_id('trackio')[:6]}"
        with redirect_stdout(sys.stderr):  # it prints where it is to be seen
            self._run = trackio.init(
                logger.wandb_project,
                name,
                group=logger.wandb_group,
                config=self._tracked.flat_config(),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics at a step."""
        self._run.log(dict(metrics), step=step)

    def log_media(self, media: Mapping[str, Media], step: int) -> None:
        """Add tables, histograms and pictures at a step; Trackio has no pages."""
        found = {name: _shown(each) for name, each in media.items() if not isinstance(each, Html)}
        self._run.log(found, step=step)

    def close(self, failed: bool) -> None:
        """Send what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


def _shown(media: Table | Histogram | Image) -> Any:
    import trackio

    match media:
        case Table():
            rows = [[as_markdown(cell) if isinstance(cell, str) else cell for cell in row] for row in media.rows]
            return trackio.Table(columns=list(media.columns), data=rows)
        case Histogram():
            return trackio.Histogram(list(media.values))
        case Image():
            return trackio.Image(media.pixels(), caption=media.caption)
