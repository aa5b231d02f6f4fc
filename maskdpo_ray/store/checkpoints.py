"""Checkpoints of one training: which of them are whole, and of this training.

checkpoint/step-50/    what the ranks wrote after 50 optimizer steps, and marker.json

The marker is written last: what is trained, and size and SHA-256 of each file. A folder without it was being written
when somebody pulled the plug. The newest whole one is kept, and beside it the one that is being written.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import RunFolderError, shown
from maskdpo_ray.records import Record, encode_line
from maskdpo_ray.store import files
from maskdpo_ray.store.files import Proof
from maskdpo_ray.terminal import note

_MARKER = "marker.json"


class Marker(Record, kw_only=True):
    """Marker of a whole checkpoint."""

    training: dict[str, Any]
    """Identity of a training: JSON values by name."""
    files: dict[str, Proof]
    """Path within the checkpoint -> proof."""


class Checkpoints:
    """Those of one training, in a folder of their own."""

    def __init__(self, folder: Path, every: int, training: Mapping[str, Any]) -> None:
        """Look for the newest whole checkpoint; those that can't be used are removed.

        Args:
            every: steps from one checkpoint to the next; below 1 none are due.
            training: what a checkpoint must be of, as `Marker` has it.
        """
        self._folder, self._every, self._training = folder, every, dict(training)
        self.step = 0
        """Optimizer steps before the newest whole checkpoint; 0 when there is none."""
        self.notes: list[str] = []
        """Which were not whole or of another training, one line each."""
        for step in sorted(self._steps(), reverse=True):
            if fault := self._fault(step):
                self.notes.append(f"{fault}; this checkpoint is not used")
            if fault or self.step:
                self._remove(step)
            else:
                self.step = step

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is wanted after `step` steps."""
        return self._every > 0 and step % self._every == 0

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps. Not made."""
        return self._folder / f"step-{step}"

    def clear(self, step: int) -> Path:
        """The folder of a checkpoint that is about to be written: what a stopped or dead process left there is gone."""
        self._remove(step)
        return self.path(step)

    def commit(self, step: int, written: Mapping[str, Proof]) -> None:
        """Say that the checkpoint after `step` steps is whole: `written`, by their paths in it, are on the disk.

        Raises RunFolderError when they can't be seen from here: ranks and driver must share the file system.
        """
        path = self.path(step)
        files.check_proof(path, written, "the training ranks", with_hash=False)
        files.write_whole(path / _MARKER, encode_line(Marker(training=self._training, files=dict(written))))
        before, self.step = self.step, step
        if before != step:
            self._remove(before)

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step-") for path in self._folder.glob("step-*")]
        return [int(name) for name in names if name.isdecimal()]

    def _fault(self, step: int) -> str | None:
        """Why the checkpoint after `step` steps can't be used."""
        path = self.path(step)
        if not (path / _MARKER).exists():
            return f"{path}: expected {_MARKER}, got none: it is half written"
        try:
            marker = files.read_json(path / _MARKER, Marker)
            files.check_proof(path, marker.files, "the training ranks")
        except RunFolderError as error:
            return str(error)
        for name in sorted(self._training.keys() | marker.training.keys()):
            expected, got = self._training.get(name), marker.training.get(name)
            if expected != got:
                return f"{path / _MARKER}: training.{name}: expected {shown(expected)}, got {shown(got)}"
        return None

    def _remove(self, step: int) -> None:
        # The marker first: what is left, should this be stopped, counts for nothing.
        (self.path(step) / _MARKER).unlink(missing_ok=True)
        remove(self.path(step))


def remove(folder: Path) -> None:
    """Remove a folder of checkpoints, if there is one; what can't be removed is said, and stays."""
    if folder.exists():
        shutil.rmtree(folder, onerror=lambda _, path, error: note(f"{path}: can't be removed: {error[1]}"))
