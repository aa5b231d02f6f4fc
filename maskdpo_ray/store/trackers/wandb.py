"""Weights & Biases."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maskdpo_ray.errors import ConfigError
from maskdpo_ray.store.trackers.media import Histogram, Html, Image, Media, Table
from maskdpo_ray.store.trackers.protocol import Tracked, require_package


class WeightsAndBiases:
    """One W&B run, which a resumed run of ours continues; its files lie in the run folder."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._mode: Any = tracked.logger.wandb_mode or os.environ.get("WANDB_MODE") or "online"
        self._run: Any = None

    def check(self) -> None:
        """Raise ConfigError without the package, and without a login where metrics are sent."""
        require_package("wandb", "wandb")
        if self._mode == "online" and not _is_logged_in():
            raise ConfigError(
                "logger.wandb_mode: expected a login of `wandb login`, or the environment variable WANDB_API_KEY, for "
                "'online', got none; log in, or use offline and `wandb sync` later"
            )

    def start(self) -> None:
        """Connect."""
        import wandb

        logger, folder = self._tracked.logger, self._tracked.folder
        self._run = wandb.init(
            entity=logger.wandb_entity,
            project=logger.wandb_project,
            group=logger.wandb_group,
            name=folder.name,
            id=self._tracked.kept_id("wandb"),
            resume=None if self._mode == "offline" else "allow",
            mode=self._mode,
            dir=str(folder),
            config=dict(self._tracked.config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Own step axis: W&B drops what is logged at an earlier step, which a resumed stage does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics at a step."""
        self._run.log({"step": step, **metrics})

    def log_media(self, media: Mapping[str, Media], step: int) -> None:
        """Show all kinds, at a step."""
        self._run.log({"step": step, **{name: _shown(each) for name, each in media.items()}})

    def close(self, failed: bool) -> None:
        """Finish the run and end W&B's own process."""
        import wandb

        self._run.finish(exit_code=int(failed))
        wandb.teardown()


def _shown(media: Media) -> Any:
    import wandb

    match media:
        case Table():
            return wandb.Table(columns=list(media.columns), data=[list(row) for row in media.rows])
        case Histogram():
            return wandb.Histogram(list(media.values))
        case Html():
            return wandb.Html(media.text, inject=False, data_is_not_path=True)
        case Image():
            return wandb.Image(media.pixels(), caption=media.caption)


def _is_logged_in() -> bool:
    """Whether W&B will find a key: in the environment, or in the netrc file that `wandb login` writes."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        if file.is_file():
            try:
                return netrc.netrc(file).authenticators(host) is not None
            except netrc.NetrcParseError as error:
                raise ConfigError(f"logger.wandb_mode: expected a netrc file at {file}, got: {error}") from None
    return False
