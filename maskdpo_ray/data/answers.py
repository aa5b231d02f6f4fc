"""Answers of a file that are to be labelled, each with the question that it is to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from maskdpo_ray.data import formats
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats.layouts import RESPONSES
from maskdpo_ray.data.formats.preference import SIDES
from maskdpo_ray.data.jsonl import objects, record, refuse_list
from maskdpo_ray.data.questions import question_of
from maskdpo_ray.data.rows import Columns, rows
from maskdpo_ray.errors import RecordError, shown
from maskdpo_ray.records import Block, CommittedQuestion, PreferencePair, Question, Record, Rollout

Given = tuple[str, Question, tuple[Rollout, ...]]
"""An object of a file: ("file:line", question, answers to it)."""

_NEEDED = ("text", *SIDES)
"""Fields that each row must have where `data.columns` names a column for them; questions may lie in another file."""


class Answer(Record):
    """A `Rollout` of which only the first two fields are needed."""

    question_id: str
    text: str
    sample: int = 0
    token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    policy_version: int = 0
    blocks: tuple[Block, ...] = ()
    role: str | None = None


def read(
    path: Path,
    by_id: Mapping[str, Question],
    whose: str = "a question (--questions)",
    dropped: Dropped | None = None,
    columns: Columns | None = None,
) -> Iterator[Given]:
    """Read the answers of each object: a question of a run, our rollouts or pairs, another trainer's preferences, or
    the answers of a data set of another layout (`formats/layouts.py`).

    The question comes from `by_id`; a preference may have its own, with a `document` but no facts. `whose` names the
    owner of the ids of `by_id` in errors. Bad objects go to `dropped`. Raises DataError.
    """
    dropped = dropped or Dropped(path)
    read = rows(path, dropped, columns, needed=_NEEDED)
    return dropped.sift(read, lambda found: given(found[1], by_id, whose, found[0]))


def given(item: dict[str, Any], by_id: Mapping[str, Question], whose: str, where: str) -> Given:
    """The answers of one object. Raises RecordError."""
    if "rollouts" in item:
        committed = record(CommittedQuestion, item, where)
        for answer in committed.rollouts:
            refuse_impossible(answer, where)
        return where, _named(committed.question_id, by_id, whose, where), committed.rollouts
    if "prompt_token_ids" in item:
        pair = record(PreferencePair, item, where)
        return (
            where,
            _named(pair.question_id, by_id, whose, where),
            tuple(answer.rollout for answer in pair.sides().values()),
        )
    if item.get(RESPONSES):
        return where, *_of_responses(item, by_id, where)
    if "text" in item or set(SIDES).isdisjoint(item):
        answer = any_rollout(item, where)
        return where, _named(answer.question_id, by_id, whose, where), (answer,)
    return where, *_of_preference(item, by_id, where)


def any_rollout(item: dict[str, Any], where: str) -> Rollout:
    """An answer from any source. Raises RecordError naming `where` and the field."""
    refuse_list(item, where)
    answer = record(Answer, item, where)
    found = Rollout(**asdict(answer))
    refuse_impossible(found, where)
    return found


def _named(question_id: str, by_id: Mapping[str, Question], whose: str, where: str) -> Question:
    question = by_id.get(question_id)
    if question is None:
        message = f"{where}: question_id: expected that of {whose}, got {question_id!r}"
        raise RecordError(message, Reason.UNKNOWN_QUESTION)
    return question


def _of_responses(
    item: Mapping[str, Any], by_id: Mapping[str, Question], where: str
) -> tuple[Question, tuple[Rollout, ...]]:
    """The question and the answers of a row of another layout."""
    own = question_of({name: value for name, value in item.items() if name != RESPONSES}, where)
    question = by_id.get(own.id, own)
    return question, tuple(Rollout(own.id, sample, (), text, "stop", 0) for sample, text in enumerate(item[RESPONSES]))


def _of_preference(
    item: Mapping[str, Any], by_id: Mapping[str, Question], where: str
) -> tuple[Question, tuple[Rollout, ...]]:
    preference = formats.preference(item, where)
    document = item.get("document")
    if document is not None and not isinstance(document, str):
        raise RecordError(f"{where}: document: expected text, got {shown(document)}", Reason.INVALID_FIELD)
    own = Question(preference.question_id, preference.topic, preference.prompt, document)
    question = by_id.get(own.id, own)
    for name in ("prompt", "document"):
        if getattr(own, name) not in (None, getattr(question, name)):
            message = f"{where}: {name}: expected that of question {own.id!r}, got another"
            raise RecordError(message, Reason.INVALID_FIELD)
    texts = [answer.text for answer in preference.sides().values()]
    return question, tuple(Rollout(own.id, sample, (), text, "stop", 0) for sample, text in enumerate(texts))


_FINISHED = ("stop", "length")


def rollouts(path: Path, dropped: Dropped | None = None) -> Iterator[tuple[str, Rollout]]:
    """("file:line", answer) of a file of answers. Raises DataError naming line and field."""
    dropped = dropped or Dropped(path)
    return dropped.sift(objects(path, dropped), lambda item: (item[0], rollout(item[1], item[0])))


def rollout(item: dict[str, Any], where: str) -> Rollout:
    """One answer. Raises RecordError naming `where` and the field."""
    answer = record(Rollout, item, where)
    refuse_impossible(answer, where)
    return answer


def refuse_impossible(rollout: Rollout, where: str) -> None:
    """Raise RecordError naming `where` and a field whose value is impossible for an answer."""
    if rollout.finish_reason not in _FINISHED:
        expected = " or ".join(_FINISHED)
        message = f"{where}: finish_reason: expected {expected}, got {shown(rollout.finish_reason)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    if rollout.role not in (None, *SIDES):
        expected = " or ".join(SIDES)
        message = f"{where}: role: expected {expected}, or null for either, got {shown(rollout.role)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    for name in ("sample", "policy_version"):
        if (number := getattr(rollout, name)) < 0:
            raise RecordError(f"{where}: {name}: expected 0 or more, got {number}", Reason.INVALID_FIELD)
    refuse_negative(rollout.token_ids, f"{where}: token_ids")
    character = token = 0
    for i, block in enumerate(rollout.blocks):
        fits = character <= block.start < block.end <= len(rollout.text)
        if block.tokens:
            fits &= block.tokens > 0 and token <= block.first <= len(rollout.token_ids) - block.tokens
            token = block.first + block.tokens
        if not fits:
            expected = "expected characters and tokens of the answer, after those of the block before"
            raise RecordError(f"{where}: blocks[{i}]: {expected}, got {shown(block)}", Reason.INVALID_FIELD)
        character = block.end


def refuse_negative(token_ids: tuple[int, ...], where: str) -> None:
    if negative := [token for token in token_ids if token < 0]:
        raise RecordError(f"{where}: expected token ids of 0 or more, got {negative[0]}", Reason.INVALID_FIELD)
