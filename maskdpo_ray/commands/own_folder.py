"""The run folder of a command: of the loop, or of one of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskdpo_ray.beginning import Questions
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.entries import Entry
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker


def path(config: Config) -> Path:
    """Where it lies."""
    return Path(config.run.dir) / config.run.name


def check(config: Config, inputs: Questions) -> list[Entry]:
    """Refuse, while nothing is left behind, what `opened` and `RunFolder.begin` would.

    Returns the entries of its ledger. Raises UserError.
    """
    Tracker(path(config), config.logger, cli.resolved(config)).check()
    return RunFolder.check(path(config), cli.resolved(config), inputs)


@contextmanager
def opened(config: Config) -> Iterator[tuple[RunFolder, Tracker]]:
    """Run folder and metrics; prints what there is to note of the folder. Raises RunFolderError as its `open` does."""
    resolved = cli.resolved(config)
    with RunFolder.open(path(config), resolved) as folder, Tracker(path(config), config.logger, resolved) as tracker:
        for note in folder.notes:
            print(note, flush=True)
        yield folder, tracker
