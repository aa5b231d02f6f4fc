"""What an annotator or an evaluator gives back: one reply to each of the answers that it was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from maskdpo_ray.errors import UserError
from maskdpo_ray.records import Annotation, Judgement, Question, Rollout

Reply = TypeVar("Reply", Annotation, Judgement)


def matched(
    items: Sequence[tuple[Question, Rollout]], replies: object, kind: type[Reply], who: str, error: type[UserError]
) -> Iterator[tuple[str, Rollout, Reply]]:
    """(what an error line about it begins with, answer, reply to it) of each of the items, in order.

    Raises `error`, one line that begins with `who`, when `replies` is no list of as many, and when it comes to a reply
    that is no `kind` or is to another answer.
    """
    noun = kind.__name__.lower()
    if not isinstance(replies, (list, tuple)) or len(replies) != len(items):
        got = len(replies) if isinstance(replies, (list, tuple)) else type(replies).__name__
        raise error(f"{who}: expected a list of {len(items)} {noun}s, got {got}")
    for (question, rollout), reply in zip(items, replies, strict=True):
        where = f"{who}: question {question.id!r}, answer {rollout.sample}"
        if not isinstance(reply, kind):
            article = "an" if noun[0] in "aeiou" else "a"
            raise error(f"{where}: expected {article} {kind.__name__}, got {type(reply).__name__}")
        if (reply.question_id, reply.sample) != (rollout.question_id, rollout.sample):
            got = f"question {reply.question_id!r}, answer {reply.sample}"
            raise error(f"{where}: expected its {noun}, got that of {got}")
        yield where, rollout, reply
