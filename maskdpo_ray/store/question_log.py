"""Answers, labels and pairs of questions on disk: each question is one unit, there wholly or not at all.

The unit's ledger line is on the disk before its lines are appended to the files: it holds where the
unit ends in each of them and the SHA-256 of its bytes. So after a kill or a power loss (a ledger line
without its bytes) the log is cut back to the last unit that is whole. Units that are committed
together share one write to each file and one fsync. Earlier versions wrote the ledger line last.

Questions go to the disk beside the work on the next ones: those that end meanwhile share one wait for it.

A ledger that lost lines: answers on disk that it should name and does not.

Questions are committed one after the other, and a question's ledger line is on the disk before the
next question is written. So a kill or a power loss leaves at most one question without its line, in
the whole folder; that one is cut off and done again. If there are more, the ledger lost lines, and to
cut would lose committed answers. The results of stages are not looked at: without their lines they
are made again, from the same answers.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import Annotation, DropReason, Judgement, PreferencePair, Rollout, from_json
from maskdpo_ray.store.ledger import (
    AppendFile,
    Counts,
    Entry,
    Finished,
    Ledger,
    Rewind,
    Unit,
    count_unparsed,
    encode_record,
)


def log_files(folder: Path, name: str, judged: bool) -> dict[str, Path]:
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
    paths = log_files(folder, name, judged)
    for unit in found[:sealed][-1:]:
        for part, expected in unit.end.items():
            size = paths[part].stat().st_size if paths[part].exists() else 0
            if size < expected:
                raise RunFolderError(
                    f"{paths[part]}: expected at least the {expected} bytes that a finished stage was built on, "
                    f"got {size}; restore it or choose another run.name"
                )


@dataclass(frozen=True)
class Encoded:
    """A question as it goes to the disk."""

    question_id: str
    data: dict[str, bytes]
    """Part -> lines."""
    count: int
    """Answers."""
    drop: str | None
    sha256: str
    counts: Counts
    error: str | None


class QuestionLog:
    """The questions committed under `name` ("iter_000", "eval_001/heldout")."""

    def __init__(self, folder: Path, name: str, ledger: Ledger, judged: bool = False) -> None:
        """Cuts off what no ledger line covers; `notes` says what was cut.

        Raises RunFolderError when bytes that a finished stage was built on have changed.
        """
        self.name = name
        self.notes: list[str] = []
        self._ledger = ledger
        paths = log_files(folder, name, judged)
        self._files = {part: AppendFile(path) for part, path in paths.items()}
        self._ends = dict.fromkeys(self._files, 0)
        """Where the last unit ends in each file."""
        self._committed: set[str] = set()
        self._drops: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        whole, damaged = self._read_whole()
        if damaged is not None and whole < ledger.num_sealed(name):
            self.close()
            raise RunFolderError(
                f"{paths['rollouts'].parent}: the files of question {damaged.question_id!r} changed after "
                "a stage was built on them: expected the bytes that ledger.jsonl names; "
                "restore them or start a new run"
            )
        lost = ledger.num_units(name) - whole
        for part, file in self._files.items():
            if file.size > self._ends[part]:
                whose = f"{lost} damaged questions" if lost else "an unfinished question"
                self.notes.append(f"{file.path}: cut off {file.size - self._ends[part]} bytes of {whose}")
            file.truncate(self._ends[part])
        if damaged is not None:
            first = f"from {damaged.question_id!r} on"
            self.notes.append(f"{name}: {lost} questions, {first}, are not on the disk as committed and are done again")
            # What the ledger does not name is never more than one question (lost_lines.py): cut first, then say so.
            self.sync()
            ledger.append(Rewind(log=name, keep=whole))

    def _read_whole(self) -> tuple[int, Unit | None]:
        """Take in the units whose bytes are there; how many they are, and the first other one."""
        for number, unit in enumerate(self._ledger.units(self.name)):
            digest = hashlib.sha256()
            for part, file in self._files.items():
                digest.update(file.read(self._ends[part], unit.end[part]))
            if digest.hexdigest() != unit.sha256:
                return number, unit
            self._take(unit)
        return self._ledger.num_units(self.name), None

    def _take(self, unit: Unit) -> None:
        self._ends = unit.end
        self._committed.add(unit.question_id)
        if unit.drop:
            self._drops[unit.drop] += 1
        if unit.error is not None:
            self._errors[unit.question_id] = unit.error

    def commit(
        self,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str | None = None,
        judgements: Sequence[Judgement] = (),
        error: str | None = None,
    ) -> None:
        """Write one question; see `encode`. It is committed when this returns."""
        self.commit_all([self.encode(question_id, rollouts, annotations, outcome, judgements, error)])

    def encode(
        self,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str | None = None,
        judgements: Sequence[Judgement] = (),
        error: str | None = None,
    ) -> Encoded:
        """A question's answers, labels, judgements (same order) and pair or drop reason, to be committed.

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
        data = {part: b"".join(map(encode_record, records[part])) for part in self._files}
        return Encoded(
            question_id=question_id,
            data=data,
            count=len(rollouts),
            drop=None if outcome is None or pair else str.__str__(outcome),  # an enum's value
            sha256=hashlib.sha256(b"".join(data.values())).hexdigest(),
            counts=dict(count_unparsed(annotations, judgements)),
            error=error,
        )

    def commit_all(self, questions: Sequence[Encoded]) -> None:
        """Write questions together: all are committed when this returns, none when it raises.

        Raises ValueError when one is there already, RunFolderError when the disk is full.
        """
        if not questions:
            return
        found, end, others = [], self._ends, set[str]()
        for question in questions:
            if question.question_id in self._committed or question.question_id in others:
                raise ValueError(f"question {question.question_id!r} is committed already in {self.name}")
            others.add(question.question_id)
            end = {part: end[part] + len(question.data[part]) for part in self._files}
            found.append(
                Unit(
                    log=self.name,
                    question_id=question.question_id,
                    count=question.count,
                    drop=question.drop,
                    end=end,
                    bytes=sum(map(len, question.data.values())),
                    sha256=question.sha256,
                    counts=dict(question.counts),
                    error=question.error,
                )
            )
        self._ledger.append(*found)
        try:
            for part, file in self._files.items():
                file.append(b"".join(question.data[part] for question in questions))
        except RunFolderError:
            for part, file in self._files.items():
                file.truncate(self._ends[part])
            self._ledger.take_back(self.name, len(found))
            raise
        for unit in found:
            self._take(unit)

    @property
    def question_ids(self) -> frozenset[str]:
        """Committed questions."""
        return frozenset(self._committed)

    def drops(self) -> Counter[str]:
        """How many questions gave no pair, by reason."""
        return self._drops.copy()

    def set_aside(self, question_id: str, error: str) -> None:
        """Write that a question failed and has no answers."""
        self.commit(question_id, (), (), DropReason.FAILED, error=error)

    def errors(self) -> dict[str, str]:
        """Question -> error, of those that failed."""
        return dict(self._errors)

    def read(self, part: str, kind: type) -> Iterator[Any]:
        """The committed records of one part, in the order of commitment. Raises RunFolderError naming a bad line."""
        end, read = self._ends[part], 0
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


_MOST = 256
"""Questions that wait for the disk at a time."""


class Committer:
    """A context manager. When it is left, after an error too, all questions that it was given are on the disk.

    Meanwhile nobody else may write to the run folder's ledger.
    """

    def __init__(self, log: QuestionLog) -> None:
        self._log = log
        self._waiting: queue.Queue[Encoded | None] = queue.Queue(_MOST)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="commit", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def commit(
        self,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str,
    ) -> None:
        """Take a question, which is committed soon. Raises RunFolderError when an earlier one could not be."""
        question = self._log.encode(question_id, rollouts, annotations, outcome)
        if self._failure is not None:
            raise self._failure
        self._waiting.put(question)

    def _write(self) -> None:
        is_last = False
        while not is_last:
            together = [self._waiting.get()]
            while not self._waiting.empty():
                together.append(self._waiting.get())
            is_last = together[-1] is None
            if self._failure is None:  # else only make room for whoever puts
                try:
                    self._log.commit_all([question for question in together if question is not None])
                except BaseException as error:
                    self._failure = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure


_REMEDY = "restore the ledger or choose another run.name"


def refuse_lost_lines(path: Path, entries: Sequence[Entry], judged: bool) -> None:
    """Raise RunFolderError when lines are missing from the ledger in `path`, read as `entries`. Writes nothing.

    `judged`: the run has judgements of held-out answers.
    """
    ledger = path / "ledger.jsonl"
    unnamed: dict[tuple[str, str], None] = {}  # (log, question), in order
    for name in dict.fromkeys([*(e.log for e in entries if isinstance(e, Unit)), *names(path)]):
        files = log_files(path, name, judged)
        end = dict.fromkeys(files, 0)
        for unit in units(entries, name)[0]:
            if unit.end.keys() != end.keys() or sum(unit.end.values()) - sum(end.values()) != unit.bytes:
                raise RunFolderError(
                    f"{ledger}: expected question {unit.question_id!r} of {name} to start where the one before it "
                    f"ends, got a gap; {_REMEDY}"
                )
            end = unit.end
        unnamed |= {(name, question): None for part in files for question in _question_ids(files[part], end[part])}
    # The first line, of the opened folder, is on the disk before any answer.
    if len(unnamed) > (1 if entries else 0):
        name, question = next(iter(unnamed))
        raise RunFolderError(
            f"{ledger}: expected a line for each committed question, got none for {len(unnamed)} that are on disk, "
            f"first {question!r} of {name}; {_REMEDY}"
        )


def _question_ids(file: Path, start: int) -> Iterator[str]:
    """Of the whole lines from byte `start` on."""
    if not file.exists():
        return
    with file.open("rb") as opened:
        opened.seek(start)
        for line in opened.read().split(b"\n")[:-1]:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue  # what a power loss left in place of a line: no answer is lost with it
            if isinstance(record, dict) and "question_id" in record:
                yield str(record["question_id"])
