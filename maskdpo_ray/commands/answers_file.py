"""Answers of a file that are to be labelled, each with the question that it is to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray import formats
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.formats.json_items import objects, record
from maskdpo_ray.formats.preference import SIDES
from maskdpo_ray.records import PreferencePair, Question, Rollout


@dataclass(frozen=True)
class Answer:
    """A `Rollout` of which only the first two fields are needed."""

    question_id: str
    text: str
    sample: int = 0
    token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    policy_version: int = 0


def read(
    path: Path, by_id: Mapping[str, Question], whose: str = "a question"
) -> Iterator[tuple[str, Question, tuple[Rollout, ...]]]:
    """("file:line", question, answers) of each object: a rollout of ours, a pair of ours, or a preference of others.

    The question is the one of `by_id`; a preference may bring its own, with a `document` if it has one, and no facts.
    `whose` says in errors what the ids of `by_id` are of. Raises DataError.
    """
    for where, item in objects(path):
        if "prompt_token_ids" in item:
            pair = record(PreferencePair, item, where)
            yield where, _named(pair.question_id, by_id, whose, where), (pair.chosen.rollout, pair.rejected.rollout)
        elif "text" in item or set(SIDES).isdisjoint(item):
            given = record(Answer, item, where)
            answer = Rollout(
                given.question_id, given.sample, given.token_ids, given.text, given.finish_reason, given.policy_version
            )
            yield where, _named(given.question_id, by_id, whose, where), (answer,)
        else:
            yield where, *_of_preference(item, by_id, where)


def _named(question_id: str, by_id: Mapping[str, Question], whose: str, where: str) -> Question:
    question = by_id.get(question_id)
    if question is None:
        raise DataError(f"{where}: question_id: expected that of {whose} (--questions), got {question_id!r}")
    return question


def _of_preference(
    item: Mapping[str, Any], by_id: Mapping[str, Question], where: str
) -> tuple[Question, tuple[Rollout, ...]]:
    preference = formats.preference(item, where)
    document = item.get("document")
    if document is not None and not isinstance(document, str):
        raise DataError(f"{where}: document: expected text, got {shown(document)}")
    own = Question(preference.question_id, preference.topic, preference.prompt, document)
    question = by_id.get(own.id, own)
    for name in ("prompt", "document"):
        if getattr(own, name) not in (None, getattr(question, name)):
            raise DataError(f"{where}: {name}: expected that of question {own.id!r} (--questions), got another")
    texts = [getattr(preference, side).text for side in SIDES]
    return question, tuple(Rollout(own.id, sample, (), text, "stop", 0) for sample, text in enumerate(texts))
