"""The ledger of a run: an append-only file of JSON lines, each on the disk before the next is written.

It holds who opened the folder and which stages are finished, with the hashes of what they left and of the answers that
they were built on. A run resumes from it and from the question logs; a kill can only tear its last line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from maskdpo_ray.errors import shown
from maskdpo_ray.records import (
    SCHEMA_VERSION,
    UNPARSED,
    Annotation,
    Judgement,
    NotJSON,
    Record,
    decode,
    encode_line,
    from_json,
)
from maskdpo_ray.store.files import AppendFile, Proof, read_lines


class Count(Record):
    """Number of an annotator's sentences, or of an evaluator's facts."""

    total: int = 0
    unparsed: int = 0


Counts = Mapping[str, Count]
"""Part, `annotations` or `judgements` -> its sentences or facts; a part without any is left out."""


def count_unparsed(annotations: Iterable[Annotation], judgements: Iterable[Judgement] = ()) -> Counts:
    """The sentences and facts of some answers."""
    labels = Counter(sentence.label == UNPARSED for annotation in annotations for sentence in annotation.sentences)
    verdicts = Counter(fact.verdict == UNPARSED for judgement in judgements for fact in judgement.facts)
    found = {"annotations": labels, "judgements": verdicts}
    return {part: Count(each.total(), each[True]) for part, each in found.items() if each}


def added_counts(*counts: Counts) -> dict[str, Count]:
    """All of them together."""
    found: dict[str, Count] = {}
    for each in counts:
        for part, count in each.items():
            before = found.get(part, Count())
            found[part] = Count(before.total + count.total, before.unparsed + count.unparsed)
    return found


class Opened(Record, kw_only=True):
    """A process opened the run folder."""

    stage: str = "open"
    time: float
    schema: int
    pid: int
    host: str
    versions: dict[str, str]
    changed: dict[str, Any]
    """Dotted name of a config field -> [old, new]."""


class Sealed(Proof):
    """The questions of a log that a finished stage was built on: they must stay what they are."""

    counts: dict[str, Count]


class Finished(Record, kw_only=True):
    """`stage` ("train", "evaluate-heldout", ...) of `iteration` is done."""

    stage: str
    iteration: int
    finished: float
    """Unix seconds."""
    facts: dict[str, Any]
    files: dict[str, Proof]
    """Path within the run folder -> proof."""
    logs: dict[str, Sealed] = {}
    """Question logs that have grown since the stage before, by their paths within the run folder."""

    def __post_init__(self) -> None:
        """Raises ValueError: a ledger that somebody wrote must not lead out of its folder."""
        for part, names in (("files", self.files), ("logs", self.logs)):
            for name in names:
                if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                    raise ValueError(f"{part}: expected paths within the run folder, got {shown(name)}")


Entry = Opened | Finished
_WITH_CHECKSUM = ("begin", "train")


class Ledger:
    """The ledger of an open run folder, read at the start and appended since."""

    def __init__(self, path: Path) -> None:
        """Open or create. `torn` is the number of bytes of a half-written last line that were cut off.

        Raises RunFolderError as `read_entries` does.
        """
        self.entries: list[Entry] = []
        """Oldest first."""
        end = 0
        for entry, line in read_lines(path, _parsed):
            self.entries.append(entry)
            end += len(line)
        self._file = AppendFile(path)
        self.torn = self._file.cut(end)

    def append(self, entry: Entry) -> None:
        """Add a line; it is on the disk when this returns, not there when it raises RunFolderError."""
        self._file.append(encode_line(entry), durable=True)
        self.entries.append(entry)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_entries(path: Path) -> list[Entry]:
    """The entries of a ledger that is left as it is, none when there is no file.

    Raises RunFolderError when the file can't be read, a line other than the last is no JSON, a line lacks what its
    stage needs (no kill does that), or another version of this package wrote it.
    """
    return [entry for entry, _ in read_lines(path, _parsed)]


def _parsed(line: bytes) -> Entry:
    """The entry of a line. Raises ValueError: what was expected and what came."""
    expected = f"expected a JSON object with a stage, got {line[:60].decode(errors='replace')!r}"
    try:
        value = decode(Any, line)
    except NotJSON:
        raise NotJSON(expected) from None
    if not isinstance(value, dict) or not isinstance(value.get("stage"), str):
        raise ValueError(expected)
    schema = value.get("schema", SCHEMA_VERSION)
    if isinstance(schema, int) and schema != SCHEMA_VERSION:
        which = "newer" if schema > SCHEMA_VERSION else "earlier"
        raise ValueError(
            f"schema: expected {SCHEMA_VERSION}, got {schema}: a run folder of {'a' if which == 'newer' else 'an'} "
            f"{which} version, which this version does not read"
        )
    if value["stage"] == "open":
        return from_json(Opened, value)
    entry = from_json(Finished, value)
    if entry.stage in _WITH_CHECKSUM and not isinstance(entry.facts.get("checksum"), str):
        raise ValueError(f"facts.checksum: expected text, got {entry.facts.get('checksum')!r}")
    return entry


def find_finished(entries: Sequence[Entry], stage: str, iteration: int) -> Finished | None:
    """The line of a finished stage, None when it is not finished."""
    for entry in reversed(entries):
        if isinstance(entry, Finished) and (entry.stage, entry.iteration) == (stage, iteration):
            return entry
    return None


def num_trained(entries: Sequence[Entry]) -> int:
    """Number of iterations whose training is finished, counted from the first."""
    trained = {entry.iteration for entry in entries if isinstance(entry, Finished) and entry.stage == "train"}
    return next(i for i in range(len(trained) + 1) if i not in trained)


def sealed_logs(entries: Iterable[Entry]) -> dict[str, Sealed]:
    """Path of a question log within the run folder -> the beginning of it that a finished stage was built on."""
    return {name: seal for entry in entries if isinstance(entry, Finished) for name, seal in entry.logs.items()}


def worked(entries: Iterable[Entry]) -> float:
    """Seconds of work in a run's folder: of each process from its start to the last stage that it finished."""
    seconds, opened, last = 0.0, 0.0, 0.0
    for entry in entries:
        if isinstance(entry, Opened):
            seconds += last - opened
            opened = last = entry.time
        else:
            last = entry.finished
    return seconds + last - opened
