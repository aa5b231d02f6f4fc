"""The ledger of a run: an append-only file of JSON lines, each on disk before the next is written.

A run resumes from the ledger, and from nothing else. A kill can only truncate its last line.

The lines of a ledger as records, checked when they are read.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from pathlib import Path, PurePath
from typing import Any

import msgspec

from maskdpo_ray.errors import RunFolderError, shown
from maskdpo_ray.records import SCHEMA_VERSION, UNPARSED, Annotation, Judgement, from_json


def encode_line(value: Any) -> bytes:
    """`value` (JSON values and records) as one UTF-8 line, newline included. NaN raises ValueError."""
    return _ENCODER.encode(value).encode() + b"\n"


def encode_record(record: Any) -> bytes:
    """A record of finite numbers as one UTF-8 line, newline included: `encode_line` ten times as fast, for answers.

    What isn't finite becomes null: `formats` and both `conformance` refuse it before.
    """
    return _FAST_ENCODER.encode(record) + b"\n"


def _record_fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _field_names(type(value))}


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"expected JSON values or records, got {kind.__name__}")
    return tuple(field.name for field in dataclasses.fields(kind))


# `default` instead of records.to_json: asdict copies every token id one by one.
# Records are no circles, and to look for them takes a while.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=_record_fields
)


def _plain(value: Any) -> str | float:
    """numpy's strings and numbers, say, which msgspec does not take for what they are."""
    for kind in (str, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"expected JSON values or records, got {type(value).__name__}")


_FAST_ENCODER = msgspec.json.Encoder(enc_hook=_plain)


def sync_folder(folder: Path) -> None:
    """Make new and renamed names in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """A file that grows by whole units; a unit that could not be written is taken back."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises RunFolderError when that can't be."""
        self.path = path
        new = not path.exists()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunFolderError(f"{path}: can't be written: {error.strerror}") from error
        if new:
            sync_folder(path.parent)
        self.size = os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Add `data` at the end. Raises RunFolderError (disk full, for one) and leaves the file as it was."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            os.ftruncate(self._descriptor, self.size)
            raise RunFolderError(f"{self.path}: can't be written: {error.strerror}") from error
        self.size += len(data)

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        if size != self.size:
            os.ftruncate(self._descriptor, size)
            self.size = size

    def read(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (exclusive); fewer where the file is shorter."""
        chunks = []
        end = min(end, self.size)
        while start < end and (chunk := os.pread(self._descriptor, end - start, start)):
            chunks.append(chunk)
            start += len(chunk)
        return b"".join(chunks)

    def hold(self) -> None:
        """Keep other processes from writing it, until it is closed. Raises RunFolderError when one does."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"{self.path}: another process writes this file; wait for it or stop it") from error
        self.size = os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Log:
    """The units of one log, by where their lines begin in the ledger."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.sealed = 0
        """How many of them a finished stage was built on."""
        self.counts: Counts = {}


class Ledger:
    """What is committed, read at the start and appended since. Questions' lines stay on disk: a run has many."""

    def __init__(self, path: Path) -> None:
        """Open or create. `torn` is the number of bytes of a half-written last line that were cut off.

        Raises RunFolderError when the file can't be read, a line other than the last is no JSON, or a
        line lacks what its stage needs: that is no kill's doing.
        """
        found, good = _read(path)
        self.finished: list[Finished] = []
        """Stages, oldest first."""
        self._logs: defaultdict[str, _Log] = defaultdict(_Log)
        self._file = AppendFile(path)
        self.torn = self._file.size - good
        self._file.truncate(good)
        for entry, start in found:
            self._note(entry, start)

    def append(self, *added: Entry) -> None:
        """Add lines; they are on the disk when this returns, none of them when it raises RunFolderError."""
        size = self._file.size
        lines = [encode_line(entry) for entry in added]
        self._file.append(b"".join(lines))
        try:
            self._file.sync()
        except OSError as error:
            self._file.truncate(size)
            raise RunFolderError(f"{self._file.path}: can't be written: {error.strerror}") from error
        for entry, line in zip(added, lines, strict=True):
            self._note(entry, size)
            size += len(line)

    def take_back(self, name: str, number: int) -> None:
        """Cut off the last `number` lines, which are units of log `name`: their bytes could not be written."""
        log = self._logs[name]
        self._file.truncate(log.starts[-number])
        self._rewind(log, len(log.starts) - number)

    def _note(self, entry: Entry, start: int) -> None:
        if isinstance(entry, Finished):
            self.finished.append(entry)
            for log in self._logs.values():
                log.sealed = len(log.starts)
        elif isinstance(entry, Unit):
            log = self._logs[entry.log]
            log.starts.append(start)
            log.counts = added_counts(log.counts, entry.counts)
        elif isinstance(entry, Rewind):
            self._rewind(self._logs[entry.log], entry.keep)

    def _rewind(self, log: _Log, keep: int) -> None:
        del log.starts[keep:]
        log.counts = reduce(added_counts, (unit.counts for unit in self._units(log)), {})

    def units(self, name: str) -> Iterator[Unit]:
        """The units of a log, oldest first, read from the disk."""
        return self._units(self._logs[name])

    def _units(self, log: _Log) -> Iterator[Unit]:
        if not log.starts:
            return
        with self._file.path.open("rb") as lines:
            for start in log.starts:
                lines.seek(start)
                entry = parse(json.loads(lines.readline()))
                assert isinstance(entry, Unit)
                yield entry

    def num_units(self, name: str) -> int:
        """How many units the log has."""
        return len(self._logs[name].starts)

    def num_sealed(self, name: str) -> int:
        """How many units of a log a finished stage was built on."""
        return self._logs[name].sealed

    def unsealed(self) -> list[str]:
        """Logs with units since the last finished stage."""
        return [name for name, log in self._logs.items() if len(log.starts) > log.sealed]

    def counts(self) -> Counts:
        """The sentences and facts of all logs."""
        return reduce(added_counts, (log.counts for log in self._logs.values()), {})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_entries(path: Path) -> list[Entry]:
    """The entries of a ledger that is left as it is, none when there is no file. Raises RunFolderError as above."""
    return [entry for entry, _ in _read(path)[0]]


def _read(path: Path) -> tuple[list[tuple[Entry, int]], int]:
    """The entries, each with where its line begins, and the number of bytes that they take."""
    try:
        lines = (path.read_bytes() if path.exists() else b"").split(b"\n")
    except OSError as error:
        raise RunFolderError(f"{path}: can't be read: {error.strerror}") from error
    # A line counts once its newline is there; what follows the last newline is torn.
    complete, found, good = lines[:-1], [], 0
    for number, line in enumerate(complete, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(complete) and not lines[-1]:
                break  # torn: a power loss can leave the newline and not what stood before it
            raise RunFolderError(
                f"{path}, line {number}: expected a JSON object with a stage, got {line[:60]!r}"
            ) from error
        try:
            found.append((parse(value), good))
        except ValueError as error:
            raise RunFolderError(f"{path}, line {number}: {error}") from error
        good += len(line) + 1
    return found, good


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


@dataclass(frozen=True)
class Count:
    """Of an annotator's sentences, or of an evaluator's facts."""

    total: int = 0
    unparsed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.total + other.total, self.unparsed + other.unparsed)


Counts = Mapping[str, Count]
"""Of `annotations` and `judgements`; a part without a sentence or fact is left out."""


def count_unparsed(annotations: Iterable[Annotation], judgements: Iterable[Judgement] = ()) -> Counts:
    """The sentences and facts of some answers."""
    labels = [sentence.label for annotation in annotations for sentence in annotation.sentences]
    verdicts = [fact.verdict for judgement in judgements for fact in judgement.facts]
    found = {"annotations": labels, "judgements": verdicts}
    return {part: Count(len(each), each.count(UNPARSED)) for part, each in found.items() if each}


def added_counts(one: Counts, other: Counts) -> Counts:
    """Both together."""
    return {part: one.get(part, Count()) + other.get(part, Count()) for part in {**one, **other}}
