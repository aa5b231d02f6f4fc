"""The lines of a ledger as records, checked when they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from maskdpo_ray.errors import shown
from maskdpo_ray.records import SCHEMA_VERSION, from_json
from maskdpo_ray.stages.watch import Count


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A process opened the run folder."""

    stage: str = "open"
    time: float
    schema: int
    pid: int
    host: str
    versions: dict[str, str]
    changed: dict[str, Any]
    """Dotted name of a config field -> [old, new]."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A question is committed."""

    stage: str = "question"
    log: str
    question_id: str
    count: int
    """Answers."""
    drop: str | None
    """Why it gave no pair; "failed", of held-out questions too, with an error."""
    end: dict[str, int]
    """Part ("rollouts") -> where the unit ends in the part's file, bytes."""
    bytes: int
    """Of all parts together."""
    sha256: str
    counts: dict[str, Count] = field(default_factory=dict)
    """Part -> sentences or facts, and how many of them are unparsed; earlier versions did not keep it."""
    error: str | None = None
    """Of a question that failed and has no answers: the last error, one line."""

    def __post_init__(self) -> None:
        """Raises ValueError: a ledger that somebody wrote must not lead out of its folder, nor beyond its files."""
        _check_log(self.log)
        for name, value in {"count": self.count, "bytes": self.bytes, **self.end}.items():
            _check_count(name, value)


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Of the units of `log` only the first `keep` reached the disk."""

    stage: str = "rewind"
    log: str
    keep: int

    def __post_init__(self) -> None:
        """Raises ValueError."""
        _check_log(self.log)
        _check_count("keep", self.keep)


@dataclass(frozen=True)
class Proof:
    """What a file held when its stage was finished."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """`stage` ("train", "evaluate-heldout", ...) of `iteration` is done."""

    stage: str
    iteration: int
    finished: float
    """Unix seconds."""
    facts: dict[str, Any]
    files: dict[str, Proof]
    """By their paths within the run folder."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for name in self.files:
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                raise ValueError(f"files: expected paths within the run folder, got {shown(name)}")


Entry = Opened | Unit | Rewind | Finished

_LOG = re.compile(r"iter_[0-9]{3,}|eval_[0-9]{3,}/[a-z]+")

_KINDS: dict[str, type[Entry]] = {kind.stage: kind for kind in (Opened, Unit, Rewind)}
_WITH_CHECKSUM = ("begin", "train")


def parse(value: Any) -> Entry:
    """The record of a line's parsed JSON. Raises ValueError: what was expected and what came."""
    if not isinstance(value, dict) or not isinstance(value.get("stage"), str):
        raise ValueError(f"expected a JSON object with a stage, got {str(value)[:60]!r}")
    schema = value.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise ValueError(f"schema: expected at most {SCHEMA_VERSION}, got {schema}; a newer version wrote this folder")
    entry = from_json(_KINDS.get(value["stage"], Finished), value)
    if entry.stage in _WITH_CHECKSUM and not isinstance(entry.facts.get("checksum"), str):
        raise ValueError(f"facts.checksum: expected text, got {entry.facts.get('checksum')!r}")
    return entry


def _check_log(name: str) -> None:
    if not _LOG.fullmatch(name):
        raise ValueError(f"log: expected iter_000, eval_000/heldout or the like, got {shown(name)}")


def _check_count(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name}: expected 0 or more, got {value}")


def find_finished(entries: Sequence[Entry], stage: str, iteration: int) -> Finished | None:
    """The line of a finished stage, None when it is not finished."""
    for entry in reversed(entries):
        if isinstance(entry, Finished) and (entry.stage, entry.iteration) == (stage, iteration):
            return entry
    return None
