"""Answers, labels and pairs of questions on disk: each question is one unit, there wholly or not at all.

The unit's lines are appended to the files first and the ledger last, with one fsync. The ledger line
holds where the unit ends in each file and the SHA-256 of its bytes, so that after a kill (bytes
without a ledger line) or a power loss (a ledger line without its bytes) the log is cut back to the
last unit that is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from maskdpo_ray.entries import Entry, Finished, Rewind, Unit
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.ledger import AppendFile, Ledger, encode_line
from maskdpo_ray.pairs import DropReason
from maskdpo_ray.records import Annotation, Judgement, PreferencePair, Rollout, from_json
from maskdpo_ray.unparsed import Counts, added, count


def files(folder: Path, name: str, judged: bool) -> dict[str, Path]:
    """Part -> file of the log `name` in the run folder.

    "rollouts", "annotations" and, for training, "pairs"; of an evaluation, where the run is `judged` by a second
    evaluator, "judgements".
    """
    parent, _, split = name.partition("/")
    if split:
        parts = ("rollouts", "annotations", *["judgements"] * judged)
        return {part: folder / parent / f"{split}-{part}.jsonl" for part in parts}
    parts = {part: folder / parent / f"{part}-000.jsonl" for part in ("rollouts", "annotations")}
    return {**parts, "pairs": folder / parent / "pairs.jsonl"}


def names(folder: Path) -> list[str]:
    """The logs that the run folder holds files of, whatever its ledger says."""
    training = [file.parent.name for file in folder.glob("iter_*/rollouts-000.jsonl")]
    suffix = "-rollouts.jsonl"
    evaluated = [f"{f.parent.name}/{f.name.removesuffix(suffix)}" for f in folder.glob(f"eval_*/*{suffix}")]
    return sorted(training) + sorted(evaluated)


def units(entries: Iterable[Entry], name: str) -> tuple[list[Unit], int]:
    """The units of a log, and how many of them a finished stage was built on."""
    found: list[Unit] = []
    sealed = 0
    for entry in entries:
        if isinstance(entry, Finished):
            sealed = len(found)
        elif isinstance(entry, Unit) and entry.log == name:
            found.append(entry)
        elif isinstance(entry, Rewind) and entry.log == name:
            del found[entry.keep :]
    return found, sealed


def refuse_short(folder: Path, name: str, entries: Iterable[Entry], judged: bool) -> None:
    """Raise RunFolderError when a file of the log lacks bytes that a finished stage was built on. Hashes nothing."""
    found, sealed = units(entries, name)
    paths = files(folder, name, judged)
    for unit in found[:sealed][-1:]:
        for part, expected in unit.end.items():
            size = paths[part].stat().st_size if paths[part].exists() else 0
            if size < expected:
                raise RunFolderError(
                    f"{paths[part]}: expected at least the {expected} bytes that a finished stage was built on, "
                    f"got {size}; restore it or choose another run.name"
                )


def counts(entries: Iterable[Entry]) -> Counts:
    """The sentences and facts of all logs."""
    logs: dict[str, list[Unit]] = {}
    for entry in entries:
        if isinstance(entry, Unit):
            logs.setdefault(entry.log, []).append(entry)
        elif isinstance(entry, Rewind):
            del logs[entry.log][entry.keep :]
    return reduce(added, (unit.counts for found in logs.values() for unit in found), {})


class QuestionLog:
    """The questions committed under `name` ("iter_000", "eval_001/heldout")."""

    def __init__(self, folder: Path, name: str, ledger: Ledger, judged: bool = False) -> None:
        """Cuts off what no ledger line covers; `notes` says what was cut.

        Raises RunFolderError when bytes that a finished stage was built on have changed.
        """
        self.name = name
        self.notes: list[str] = []
        self._ledger = ledger
        self._units, sealed = units(ledger.entries, name)
        paths = files(folder, name, judged)
        self._files = {part: AppendFile(path) for part, path in paths.items()}
        whole = self._count_whole()
        if whole < sealed:
            unit = self._units[whole]
            self.close()
            raise RunFolderError(
                f"{paths['rollouts'].parent}: the files of question {unit.question_id!r} changed after "
                "a stage was built on them: expected the bytes that ledger.jsonl names; "
                "restore them or start a new run"
            )
        lost_units = self._units[whole:]
        lost = len(lost_units)
        del self._units[whole:]
        for part, file in self._files.items():
            if file.size > self._end(part):
                whose = f"{lost} damaged questions" if lost else "an unfinished question"
                self.notes.append(f"{file.path}: cut off {file.size - self._end(part)} bytes of {whose}")
            file.truncate(self._end(part))
        if lost:
            first = f"from {lost_units[0].question_id!r} on"
            self.notes.append(f"{name}: {lost} questions, {first}, are not on the disk as committed and are done again")
            # What the ledger does not name is never more than one question (lost_lines.py): cut first, then say so.
            self.sync()
            ledger.append(Rewind(log=name, keep=whole))
        self._committed = {unit.question_id for unit in self._units}

    def _end(self, part: str) -> int:
        return self._units[-1].end[part] if self._units else 0

    def _count_whole(self) -> int:
        start = dict.fromkeys(self._files, 0)
        for number, unit in enumerate(self._units):
            digest = hashlib.sha256()
            for part, file in self._files.items():
                digest.update(file.read(start[part], unit.end[part]))
            if digest.hexdigest() != unit.sha256:
                return number
            start = unit.end
        return len(self._units)

    def commit(
        self,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str | None = None,
        judgements: Sequence[Judgement] = (),
        error: str | None = None,
    ) -> None:
        """Write one question: its answers, labels, judgements (same order) and pair or drop reason.

        `error` is that of a question that failed.
        Raises ValueError when the question is there already, or rollouts, annotations and judgements do not match.
        """
        if question_id in self._committed:
            raise ValueError(f"question {question_id!r} is committed already in {self.name}")
        if [(r.question_id, r.sample) for r in rollouts] != [(a.question_id, a.sample) for a in annotations]:
            raise ValueError(f"question {question_id!r}: rollouts and annotations are not of the same answers")
        expected = [(r.question_id, r.sample) for r in rollouts] if "judgements" in self._files else []
        if [(j.question_id, j.sample) for j in judgements] != expected:
            raise ValueError(f"question {question_id!r}: rollouts and judgements are not of the same answers")
        if any(r.question_id != question_id for r in rollouts):
            raise ValueError(f"question {question_id!r}: holds a rollout of another question")
        pair = outcome if isinstance(outcome, PreferencePair) else None
        if pair is not None and pair.question_id != question_id:
            raise ValueError(f"question {question_id!r}: holds a pair of question {pair.question_id!r}")
        records = {
            "rollouts": rollouts,
            "annotations": annotations,
            "judgements": judgements,
            "pairs": [pair] if pair else [],
        }
        data = {part: b"".join(map(encode_line, records[part])) for part in self._files}
        digest = hashlib.sha256()
        try:
            for part, file in self._files.items():
                digest.update(data[part])
                file.append(data[part])
            unit = Unit(
                log=self.name,
                question_id=question_id,
                count=len(rollouts),
                drop=None if outcome is None or pair else str.__str__(outcome),  # an enum's value
                end={part: file.size for part, file in self._files.items()},
                bytes=sum(map(len, data.values())),
                sha256=digest.hexdigest(),
                counts=dict(count(annotations, judgements)),
                error=error,
            )
            self._ledger.append(unit)
        except RunFolderError:
            for part, file in self._files.items():
                file.truncate(self._end(part))
            raise
        self._units.append(unit)
        self._committed.add(question_id)

    @property
    def question_ids(self) -> frozenset[str]:
        """Committed questions."""
        return frozenset(self._committed)

    def drops(self) -> Counter[str]:
        """How many questions gave no pair, by reason."""
        return Counter(unit.drop for unit in self._units if unit.drop)

    def set_aside(self, question_id: str, error: str) -> None:
        """Write that a question failed and has no answers."""
        self.commit(question_id, (), (), DropReason.FAILED, error=error)

    def errors(self) -> dict[str, str]:
        """Question -> error, of those that failed."""
        return {unit.question_id: unit.error for unit in self._units if unit.error is not None}

    def read(self, part: str, kind: type) -> Iterator[Any]:
        """The committed records of one part, in the order of commitment. Raises RunFolderError naming a bad line."""
        end, read = self._end(part), 0
        if not end:
            return
        path = self._files[part].path
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    record = from_json(kind, json.loads(line))
                except (ValueError, RecursionError) as error:  # another version's: the hash says that it is not damaged
                    raise RunFolderError(f"{path}, line {number}: {error}") from error
                yield record
                read += len(line)
                if read >= end:
                    return

    def sync(self) -> None:
        """Return when every committed byte is on the disk."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
