"""Questions on disk, a JSON line for each with all that came of it: it is there wholly or not at all.

A log belongs to the collection of an iteration, or to the evaluation of a policy on a split. A kill or a power loss can
only tear the end of what was being written, and that is cut off when the log is opened.

Questions go to the disk beside the work on the next ones: those that end meanwhile share one wait for it.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType

from maskdpo_ray.data.jsonl import num_lines
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import (
    Annotation,
    CommittedQuestion,
    DropReason,
    Judgement,
    PreferencePair,
    Rollout,
    decode,
    encode_record,
)
from maskdpo_ray.store.files import AppendFile, read_lines
from maskdpo_ray.store.ledger import Entry, Finished, Sealed, added_counts, count_unparsed, sealed_logs

_REMEDY = "restore the ledger or choose another run.name"


def log_path(number: int, split: str | None = None, source: str | None = None) -> str:
    """Path of a log within the run folder: of policy `number` evaluated on `split`, or of iteration `number`.

    `source`: of the iteration's questions, None for the training questions.
    """
    if split is not None:
        return f"eval_{number:03d}/{split}-questions.jsonl"
    return f"iter_{number:03d}/{f'{source}-' if source else ''}questions.jsonl"


def log_sizes(folder: Path) -> dict[str, int]:
    """Path within the run folder -> bytes, of the logs that hold anything."""
    files = sorted(folder.glob("iter_*/*questions.jsonl")) + sorted(folder.glob("eval_*/*-questions.jsonl"))
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files if file.is_file()}
    return {name: size for name, size in sizes.items() if size}


def refuse_damage(folder: Path, entries: Sequence[Entry]) -> None:
    """Compare logs with the ledger, as far as their sizes and first lines tell.

    Raises RunFolderError when a log is shorter than when a finished stage was built on it, or the ledger lost lines:
    it has none, or not that of the policy that gave a log's answers.
    """
    sizes = log_sizes(folder)
    for name, seal in sealed_logs(entries).items():
        if (size := sizes.get(name, 0)) < seal.bytes:
            raise RunFolderError(
                f"{folder / name}: expected at least the {seal.bytes} bytes that a finished stage was built on, "
                f"got {size}; restore it or choose another run.name"
            )
    trained = {entry.iteration + 1 for entry in entries if isinstance(entry, Finished) and entry.stage == "train"}
    for name in sizes:
        expected = "" if entries else "of the run's beginning"
        for question in read_questions(folder / name):
            if question.rollouts:
                version = question.rollouts[0].policy_version
                if version and version not in trained:
                    expected = expected or f"of the training that gave policy {version}"
                break
        if expected:
            raise RunFolderError(
                f"{folder / 'ledger.jsonl'}: expected a line {expected}, as {name} holds answers, got none; {_REMEDY}"
            )


def num_unsealed(folder: Path, entries: Sequence[Entry]) -> dict[str, int]:
    """Log ("iter_000", "eval_000/heldout") -> its questions, of logs that have grown since the last finished stage."""
    sealed = sealed_logs(entries)
    grown = [name for name, size in log_sizes(folder).items() if name not in sealed or size > sealed[name].bytes]
    return {name.removesuffix("questions.jsonl").rstrip("-/"): num_lines(folder / name) for name in grown}


def read_questions(file: Path) -> Iterator[CommittedQuestion]:
    """The whole lines of a log. Raises RunFolderError naming a damaged one."""
    return (question for question, _ in read_lines(file, _parsed))


def _parsed(line: bytes) -> CommittedQuestion:
    return decode(CommittedQuestion, line)


class QuestionLog:
    """The committed questions of one file. Keeps ids and counts in memory, and no answers."""

    def __init__(self, path: Path, seal: Sealed | None = None, judged: bool = False) -> None:
        """Open or create, and cut off a torn end; `notes` says how much.

        Args:
            seal: what a finished stage was built on.
            judged: whether each answer needs a judgement.

        Raises RunFolderError when a line is damaged or the sealed bytes have changed.
        """
        self._file = AppendFile(path)
        self._judged = judged
        self._hash = hashlib.sha256()
        self._committed: set[str] = set()
        self._drops: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        self.counts = added_counts()
        """Sentences and facts."""
        self.notes: list[str] = []
        try:
            self._read(seal)
        except BaseException:
            self.close()
            raise

    def _read(self, seal: Sealed | None) -> None:
        path, end, intact = self._file.path, 0, seal is None
        for question, line in read_lines(path, _parsed):
            if question.question_id in self._committed:
                raise RunFolderError(
                    f"{path}: expected each question once, got {question.question_id!r} again; "
                    "restore the file or choose another run.name"
                )
            self._take(question, line)
            end += len(line)
            if seal is not None and end == seal.bytes:
                intact = self._hash.hexdigest() == seal.sha256
        if seal is not None and not intact:
            raise RunFolderError(
                f"{path}: its first {seal.bytes} bytes changed after a stage was built on them: expected those whose "
                "SHA-256 is in ledger.jsonl; restore them or choose another run.name"
            )
        if torn := self._file.cut(end):
            self.notes.append(f"{path}: cut off {torn} bytes of a half-written question")

    def _take(self, question: CommittedQuestion, line: bytes) -> None:
        self._hash.update(line)
        self._committed.add(question.question_id)
        self._drops.update(question.drops)
        if question.error is not None:
            self._errors[question.question_id] = question.error
        self.counts = added_counts(self.counts, count_unparsed(question.annotations, question.judgements))

    @property
    def question_ids(self) -> frozenset[str]:
        """Committed questions, which need not be done again."""
        return frozenset(self._committed)

    def drops(self) -> Counter[str]:
        """Number of questions without a pair, and of dropped pairs, by reason."""
        return self._drops.copy()

    def errors(self) -> dict[str, str]:
        """Question -> error, of those that failed."""
        return dict(self._errors)

    def questions(self) -> Iterator[CommittedQuestion]:
        """Committed questions in the order of commitment, which depends on timing: sort before use."""
        return read_questions(self._file.path)

    def pairs(self) -> Iterator[tuple[int, PreferencePair]]:
        """Pairs in the order of commitment, each with its number among those of its question."""
        return chain.from_iterable(enumerate(question.preference_pairs()) for question in self.questions())

    def answers(self) -> Iterator[tuple[Rollout, Annotation]]:
        """Answers with their labels in the order of commitment."""
        for question in self.questions():
            yield from zip(question.rollouts, question.annotations, strict=True)

    def judgements(self) -> Iterator[Judgement]:
        """Judgements in the order of commitment."""
        return (judgement for question in self.questions() for judgement in question.judgements)

    def commit(self, question: CommittedQuestion) -> None:
        """Write one question. It is committed when this returns."""
        self.write([(question, self.encode(question))])

    def set_aside(self, question_id: str, error: str) -> None:
        """Write that a question failed and has no answers; `drops` counts it."""
        self.commit(CommittedQuestion(question_id, drops=(DropReason.FAILED.value,), error=error))

    def encode(self, question: CommittedQuestion) -> bytes:
        """The line of a question to be committed. Raises ValueError when judgements lack, or there should be none."""
        if len(question.judgements) != len(question.rollouts) * self._judged:
            raise ValueError(f"question {question.question_id!r}: rollouts and judgements are not of the same answers")
        return encode_record(question)

    def write(self, questions: Sequence[tuple[CommittedQuestion, bytes]]) -> None:
        """Write questions together: all are committed when this returns, none when it raises.

        Raises ValueError when one is there already, RunFolderError when the disk is full.
        """
        ids = Counter(question.question_id for question, _ in questions)
        for name, count in ids.items():
            if count > 1 or name in self._committed:
                raise ValueError(f"question {name!r} is committed already in {self._file.path}")
        self._file.append(b"".join(line for _, line in questions), durable=True)
        for question, line in questions:
            self._take(question, line)

    def committing(self) -> Committer:
        """Commit many questions: beside the work on the next ones, those that end meanwhile together."""
        return Committer(self)

    def seal(self) -> Sealed:
        """All that is committed, for the ledger."""
        return Sealed(self._file.size, self._hash.hexdigest(), dict(self.counts))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_MOST = 256
"""Questions that wait for the disk at a time."""


class Committer:
    """A context manager. When it is left, after an error too, all questions that it was given are on the disk.

    Meanwhile nobody else may write to the log.
    """

    def __init__(self, log: QuestionLog) -> None:
        self._log = log
        self._waiting: queue.Queue[tuple[CommittedQuestion, bytes] | None] = queue.Queue(_MOST)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="commit", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def commit(self, question: CommittedQuestion) -> None:
        """Take a question, which is committed soon. Raises RunFolderError when an earlier one could not be."""
        line = self._log.encode(question)
        if self._failure is not None:
            raise self._failure
        self._waiting.put((question, line))

    def _write(self) -> None:
        is_last = False
        while not is_last:
            together = [self._waiting.get()]
            while not self._waiting.empty():
                together.append(self._waiting.get())
            is_last = together[-1] is None
            questions = [each for each in together if each is not None]
            if questions and self._failure is None:  # else only make room for whoever puts
                try:
                    self._log.write(questions)
                except BaseException as error:
                    self._failure = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure
