"""How a run was made: what differs from the defaults, versions, weights, interruptions, and how to continue it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maskdpo_ray.config.file import flatten
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.report.passages import visible
from maskdpo_ray.store import fingerprint
from maskdpo_ray.store.ledger import Finished, Opened, read_entries


@dataclass(frozen=True)
class Option:
    """An option of the run's config."""

    name: str
    value: str
    default: str
    is_given: bool
    """Whether it differs from the default."""


@dataclass(frozen=True)
class Weights:
    """A policy's weights."""

    name: str
    checksum: str
    """sha256 of its safetensors; empty in a run folder without it."""


@dataclass(frozen=True)
class Provenance:
    """How a run was made, as text to be shown."""

    options: list[Option]
    """Those that differ from the defaults first."""
    versions: dict[str, str]
    seeds: dict[str, str]
    weights: list[Weights]
    starts: list[str]
    """When, where and with which changed options it was started, and each time resumed."""
    error: str
    """The end of error.log; empty when the last attempt didn't fail."""
    resume: str
    """The command that resumes the run."""
    extend: str
    """The command that extends it by an iteration."""

    @property
    def num_given(self) -> int:
        """Options that differ from the defaults."""
        return sum(option.is_given for option in self.options)


_ERROR_LINES = 30


def read(folder: Path) -> Provenance:
    """Read config.yaml, ledger.jsonl and error.log. Raises RunFolderError."""
    config = fingerprint.read_config(folder / "config.yaml")
    if config is None:
        raise RunFolderError(f"{folder / 'config.yaml'}: expected the config of a run, got none")
    entries = read_entries(folder / "ledger.jsonl")
    opened = [entry for entry in entries if isinstance(entry, Opened)]
    values = flatten(config)
    options = [_option(name, value) for name, value in values.items()]
    weights = []
    for entry in entries:
        if isinstance(entry, Finished) and entry.stage in ("begin", "train"):
            version = 0 if entry.stage == "begin" else entry.iteration + 1
            weights.append(Weights(f"policy {version}", str(entry.facts.get("checksum", ""))))
    command = f"python -m maskdpo_ray.run --config {shlex.quote(str(folder / 'config.yaml'))}"
    return Provenance(
        options=sorted(options, key=lambda option: not option.is_given),
        versions=dict(opened[-1].versions) if opened else {},
        seeds={name: str(value) for name, value in values.items() if name.endswith("seed")},
        weights=weights,
        starts=[_start(entry, is_first=index == 0) for index, entry in enumerate(opened)],
        error=_last_error(folder),
        resume=command,
        extend=f"{command} --run.iterations {int(values.get('run.iterations') or 0) + 1}",
    )


def _option(name: str, value: Any) -> Option:
    default = fingerprint.default(name)
    return Option(name, visible(_text(value), 300), visible(_text(default), 300), value != default)


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _start(entry: Opened, is_first: bool) -> str:
    when = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    changed = ", ".join(f"{name} {_text(old)} → {_text(new)}" for name, (old, new) in entry.changed.items())
    text = f"{'started' if is_first else 'resumed'} {when} on {entry.host}{f'; changed: {changed}' if changed else ''}"
    return visible(text, 400)


def _last_error(folder: Path) -> str:
    file = folder / "error.log"
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 20_000))
        lines = opened.read().decode("utf-8", "replace").splitlines()
    return "\n".join(visible(line, 300) for line in lines[-_ERROR_LINES:])
