"""Answers before and after: the same question and replication, answered by two policies.

A log is read once from its beginning for the scores, and the few lines that are shown once more: however many there
are, no answers are kept in memory.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.pairing.scoring import precision
from maskdpo_ray.records import Annotation, CommittedQuestion, Judgement, Question, decode
from maskdpo_ray.report.passages import Passage, passages, visible
from maskdpo_ray.store.files import read_lines

Part = TypeVar("Part")
NUM_EXTREMES = 10
"""Number of the best changes, and of the worst."""


class _Line(msgspec.Struct):
    """A line of a question log as far as scores need it: the rest is skipped, which is several times as fast."""

    question_id: str
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True)
class Side:
    """One of the two answers."""

    passages: list[Passage]
    score: float | None
    cut_off: bool
    judgement: Judgement | None
    labels: frozenset[str]

    @property
    def verdict(self) -> str:
        """The second evaluator's, in short; empty where none judged."""
        if self.judgement is None or not (self.judgement.facts or self.judgement.abstained):
            return ""
        if self.judgement.abstained:
            return "abstains"
        supported = sum(fact.verdict == "supported" for fact in self.judgement.facts)
        return f"{supported} of {len(self.judgement.facts)} facts supported"


@dataclass(frozen=True)
class Change:
    """Two answers to one question."""

    question_id: str
    topic: str
    prompt: str
    sample: int
    before: Side
    after: Side
    why: str
    """"best", "worst" or "drawn"."""

    @property
    def gain(self) -> float | None:
        """Score after minus score before; None where one of them has none."""
        if self.before.score is None or self.after.score is None:
            return None
        return self.after.score - self.before.score


@dataclass
class Changes:
    """The changes of one split between two logs."""

    split: str
    before: Path
    after: Path
    asked: dict[str, Question] = field(default_factory=dict)
    """Question id -> question, of those that are known."""

    def __post_init__(self) -> None:
        """Raises RunFolderError for a damaged line."""
        self._first, self._second = _scores(self.before), _scores(self.after)
        self._order = self._ordered()

    def __len__(self) -> int:
        """Number of pairs of answers."""
        return sum(len(self._common(question_id)) for question_id in self._first)

    @property
    def num_extremes(self) -> int:
        """Number of the best and the worst, which are read first."""
        return sum(why != "drawn" for _, _, why in self._order)

    def moved(self) -> tuple[int, int, int]:
        """Number of answers whose score rose, fell and stayed the same."""
        gains = [self._gain(name, sample) for name in self._first for sample in self._common(name)]
        known = [gain for gain in gains if gain is not None]
        better, worse = (sum(gain * sign > 0 for gain in known) for sign in (1, -1))
        return better, worse, len(known) - better - worse

    def _common(self, question_id: str) -> list[int]:
        if question_id not in self._second:
            return []
        before, after = self._first[question_id][1], self._second[question_id][1]
        return [sample for sample in before if sample in after]

    def _ordered(self) -> list[tuple[str, int, str]]:
        """(question id, sample, why): the ten best, the ten worst, at most one of a question in each, then all others
        as a hash of their names draws them."""
        gains: list[tuple[float, str, int]] = []
        for question_id in self._first:
            common = self._common(question_id)
            known = [(gain, sample) for sample in common if (gain := self._gain(question_id, sample)) is not None]
            if known:
                gains += [(gain, question_id, sample) for gain, sample in {max(known), min(known)}]
        best = _one_each(heapq.nlargest(4 * NUM_EXTREMES, gains), 1)
        worst = _one_each(heapq.nsmallest(4 * NUM_EXTREMES, gains), -1)
        taken = {name[:2] for name in (*best, *worst)}
        rest = (
            (question_id, sample, "drawn")
            for question_id in self._first
            for sample in self._common(question_id)
            if (question_id, sample) not in taken
        )
        return [*best, *worst, *heapq.nsmallest(_MOST_DRAWN, rest, key=lambda name: _draw(*name[:2]))]

    def _gain(self, question_id: str, sample: int) -> float | None:
        before, after = self._first[question_id][1][sample], self._second[question_id][1][sample]
        return None if before is None or after is None else after - before

    def read(self) -> Iterator[Change]:
        """The changes in the order in which they are to be shown. Raises RunFolderError for a damaged line."""
        with self.before.open("rb") as before, self.after.open("rb") as after:
            for question_id, sample, why in self._order:
                first = _side_at(before, *self._first[question_id], sample)
                second = _side_at(after, *self._second[question_id], sample)
                question = self.asked.get(question_id)
                yield Change(
                    visible(question_id, 200),
                    visible(question.topic if question else question_id, 100),
                    visible(_prompt(question), 600),
                    sample,
                    first,
                    second,
                    why,
                )


_MOST_DRAWN = 1000


def _one_each(found: Sequence[tuple[float, str, int]], sign: int) -> list[tuple[str, int, str]]:
    kept: dict[str, tuple[str, int, str]] = {}
    for gain, question_id, sample in found:
        if gain * sign > 0 and len(kept) < NUM_EXTREMES:
            kept.setdefault(question_id, (question_id, sample, "best" if sign > 0 else "worst"))
    return list(kept.values())


def _draw(question_id: str, sample: int) -> bytes:
    return hashlib.sha256(f"{question_id}/{sample}".encode("utf-8", "surrogatepass")).digest()


def _scores(log: Path) -> dict[str, tuple[int, dict[int, float | None]]]:
    """Question id -> (where its line begins, {sample: score}); the score is correct / parsed sentences."""
    found: dict[str, tuple[int, dict[int, float | None]]] = {}
    at = 0
    for line, data in read_lines(log, parser_of(_Line)):
        scores = {annotation.sample: precision(annotation) for annotation in line.annotations}
        if scores:
            found[line.question_id] = (at, scores)
        at += len(data)
    return found


def parser_of(kind: type[Part]) -> Callable[[bytes], Part]:
    """A parser of a question log's lines that reads the fields of `kind` alone; of a damaged line all are checked."""
    decoder = msgspec.json.Decoder(kind)

    def parsed(line: bytes) -> Part:
        try:
            return decoder.decode(line)
        except msgspec.DecodeError:
            decode(CommittedQuestion, line)  # raises in our words
            raise

    return parsed


def read_at(file: BinaryIO, at: int) -> CommittedQuestion:
    """The question whose line begins at byte `at` of a log. Raises RunFolderError."""
    file.seek(at)
    try:
        return decode(CommittedQuestion, file.readline())
    except ValueError as error:
        raise RunFolderError(f"{file.name}: {error}") from error


def _side_at(file: BinaryIO, at: int, scores: Mapping[int, float | None], sample: int) -> Side:
    question = read_at(file, at)
    index = next(index for index, rollout in enumerate(question.rollouts) if rollout.sample == sample)
    rollout, annotation = question.rollouts[index], question.annotations[index]
    return Side(
        passages(rollout, annotation),
        scores[sample],
        rollout.finish_reason == "length",
        question.judgements[index] if question.judgements else None,
        frozenset(sentence.label for sentence in annotation.sentences),
    )


def _prompt(question: Question | None) -> str:
    """The last message of the user's; empty where the question isn't known."""
    said: Any = "" if question is None or not question.prompt else question.prompt[-1].get("content")
    return said if isinstance(said, str) else str(said or "")
