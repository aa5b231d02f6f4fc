"""The `replay` annotator: labels that were made elsewhere, read from a JSON Lines file.

A line belongs to an answer by question and text, not by sample: on-policy answers differ from iteration to iteration,
and what holds for a text holds wherever it was sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from maskdpo_ray.annotation import replies
from maskdpo_ray.config.schema import DataConfig
from maskdpo_ray.data import jsonl
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.errors import AnnotatorError, ConfigError, DataError, RecordError, require, shown
from maskdpo_ray.records import Annotation, CommittedQuestion, Question, Record, Rollout, Sentence
from maskdpo_ray.terminal import note


class LabelledAnswer(Record):
    """An `Annotation` with the text that it is of."""

    question_id: str
    text: str
    """The whole answer."""
    sentences: tuple[Sentence, ...]
    sample: int = 0
    """Not looked at, nor is the next."""
    policy_version: int = 0

    @classmethod
    def of(cls, rollout: Rollout, annotation: Annotation) -> LabelledAnswer:
        """The line of an answer and its labels."""
        return cls(rollout.question_id, rollout.text, annotation.sentences, rollout.sample, rollout.policy_version)

    def spans(self) -> list[tuple[int, int, str]]:
        """(start, end, label) of each sentence."""
        return [(sentence.start, sentence.end, sentence.label) for sentence in self.sentences]


class ReplayAnnotator:
    """Gives answers the labels that a file has for their text.

    Holds where each line starts (under 200 bytes an answer, however long it is) and reads a line when its answer comes:
    the file must stay as it is, and lie at the same path on every node.
    """

    judges_thinking = True
    """True: lines hold the whole answer, thinking included."""

    def __init__(self, file: str, max_dropped: float = DataConfig.max_dropped) -> None:
        """Read the whole file.

        Lines without an annotation, with spans that don't fit their text, or with labels that contradict an earlier
        line of the same answer are dropped and reported, up to the share `max_dropped` (see `data.max_dropped`).
        Raises ConfigError when the file can't be read, DataError when more are dropped.
        """
        is_share = isinstance(max_dropped, int | float) and 0 <= max_dropped <= 1
        require(is_share, "annotation.options.max_dropped", "0 to 1", max_dropped)
        self._path = Path(str(file))
        self._starts: dict[str, dict[bytes, int]] = {}
        """Question -> digest of an answer's text -> offset of its line."""
        self._matched: set[tuple[str, bytes]] = set()
        dropped = Dropped(self._path, max_dropped, "max_dropped")
        try:
            self._index(dropped)
        except OSError as error:
            expected = f"expected a JSON Lines file, got {shown(file)}"
            raise ConfigError(f"annotation.options.file: {expected}: {error.strerror}") from None
        for line in dropped.lines():
            note(line.strip())

    def check(self, question: Question) -> None:
        """Refuse a question that the file has no answer to. Raises DataError."""
        if question.id not in self._starts:
            raise DataError(f"question {question.id!r}: expected annotated answers in {self._path}, found none")

    def start(self) -> None:
        """Nothing to load: lines are read when they are asked for."""

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order.

        Raises AnnotatorError for an answer that the file has no line for, and when the file has changed or gone.
        """
        try:
            with open(self._path, "rb") as file:
                return [self._answer(rollout, file) for _, rollout in items]
        except OSError as error:
            raise AnnotatorError(f"{self._path}: expected the annotations here too, got: {error.strerror}") from None

    def _answer(self, rollout: Rollout, file: BinaryIO) -> Annotation:
        starts = self._starts.get(rollout.question_id, {})
        where = f"{self._path}: question {rollout.question_id!r}, answer {rollout.sample}"
        digest = _digest(rollout.text)
        if digest not in starts:
            total = sum(map(len, self._starts.values()))
            raise AnnotatorError(
                f"{where}: expected a line with its text, found none among the question's {len(starts)}; "
                f"{len(self._matched)} of {total} annotated answers matched so far"
            )
        file.seek(starts[digest])
        try:
            line = self._line(file, rollout.question_id, rollout.text)
        except DataError:
            line = None
        if line is None:
            raise AnnotatorError(f"{where}: expected the file as it was at the start, it has changed since")
        self._matched.add((rollout.question_id, digest))
        return Annotation(rollout.question_id, rollout.sample, line.sentences)

    def _index(self, dropped: Dropped) -> None:
        offset = 0
        with open(self._path, "rb") as file, open(self._path, "rb") as again:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    dropped.met()
                    try:
                        self._add(raw, number, offset, again)
                    except RecordError as error:
                        dropped.take(error)
                offset += len(raw)
        dropped.check()
        if not self._starts:
            raise DataError(f"{self._path}: expected one annotation a line, got an empty file")

    def _add(self, raw: bytes, number: int, offset: int, again: BinaryIO) -> None:
        """Store the labels of one line. Raises RecordError naming the line."""
        where = f"{self._path}:{number}"
        for answer in self._parse(raw, number):
            _refuse_faults(answer, where)
            start = self._starts.setdefault(answer.question_id, {}).setdefault(_digest(answer.text), offset)
            again.seek(start)
            first = self._line(again, answer.question_id, answer.text)
            if first is None or answer.spans() != first.spans():
                expected = "expected the labels that an earlier line gives this text, got others"
                raise RecordError(f"{where}: {expected}", Reason.DUPLICATE)

    def _line(self, file: BinaryIO, question_id: str, text: str) -> LabelledAnswer | None:
        """The first answer of this text in the line at the file's position."""
        found = self._parse(file.readline())
        return next((each for each in found if (each.question_id, each.text) == (question_id, text)), None)

    def _parse(self, raw: bytes, number: int = 1) -> list[LabelledAnswer]:
        """The answers of a line: one, or those to a question of a run."""
        item, where = jsonl.parsed(self._path, number, raw.strip()), f"{self._path}:{number}"
        if not isinstance(item, dict) or "rollouts" not in item:
            return [jsonl.record(LabelledAnswer, item, where)]
        question = jsonl.record(CommittedQuestion, item, where)
        return [LabelledAnswer.of(*each) for each in zip(question.rollouts, question.annotations, strict=True)]


def _refuse_faults(line: LabelledAnswer, where: str) -> None:
    """Raise RecordError when spans don't fit the text."""
    asked = Question(line.question_id, "", ()), Rollout(line.question_id, line.sample, (), line.text, "stop", 0)
    try:
        replies.refuse_annotation_faults([asked], [Annotation(line.question_id, line.sample, line.sentences)])
    except AnnotatorError as error:
        raise RecordError(f"{where}: {error}", Reason.INVALID_SENTENCES) from None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
