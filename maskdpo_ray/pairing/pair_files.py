"""Answers and pairs of ours, read back from files that anybody may have edited.

A pair is whole when `pairs.py` could have made it: two labelled answers to its question, the chosen one's score higher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.annotators.conformance import refuse_faults
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats.preference import SIDES
from maskdpo_ray.data.jsonl import objects, record
from maskdpo_ray.errors import AnnotatorError, RecordError, shown
from maskdpo_ray.pairs import score
from maskdpo_ray.records import PreferencePair, Question, Rollout, ScoredAnswer
from maskdpo_ray.store.ledger import encode_line

_FINISHED = ("stop", "length")


class Once:
    """Check for duplicates within a file."""

    def __init__(self) -> None:
        self._places: dict[bytes, str] = {}

    def refuse(self, value: Any, where: str) -> None:
        """Raise RecordError naming the first occurrence of `value` (JSON values and records) if there was one."""
        digest = hashlib.blake2b(encode_line(value), digest_size=16).digest()
        if first := self._places.get(digest):
            raise RecordError(f"{where}: expected each pair once, got that of {first} again", Reason.DUPLICATE)
        self._places[digest] = where


class OwnPairs:
    """Reads the pairs of one file, which holds each of them once."""

    def __init__(self) -> None:
        self._once = Once()

    def read(self, item: dict[str, Any], where: str) -> PreferencePair:
        """A JSON object of the file as a whole pair. Raises RecordError naming `where` and the field."""
        pair = record(PreferencePair, item, where)
        _refuse_incomplete(pair, where)
        self._once.refuse(pair, where)
        return pair


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
    for name in ("sample", "policy_version"):
        if (number := getattr(rollout, name)) < 0:
            raise RecordError(f"{where}: {name}: expected 0 or more, got {number}", Reason.INVALID_FIELD)
    _refuse_negative(rollout.token_ids, f"{where}: token_ids")
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


def _refuse_negative(token_ids: tuple[int, ...], where: str) -> None:
    if negative := [token for token in token_ids if token < 0]:
        raise RecordError(f"{where}: expected token ids of 0 or more, got {negative[0]}", Reason.INVALID_FIELD)


def _refuse_incomplete(pair: PreferencePair, where: str) -> None:
    _refuse_negative(pair.prompt_token_ids, f"{where}: prompt_token_ids")
    for side in SIDES:
        answer: ScoredAnswer = getattr(pair, side)
        rollout, of_side = answer.rollout, f"{where}: {side}"
        refuse_impossible(rollout, of_side)
        if rollout.question_id != pair.question_id:
            raise RecordError(
                f"{of_side}: question_id: expected {shown(pair.question_id)}, as the pair's, "
                f"got {shown(rollout.question_id)}",
                Reason.INVALID_PAIR,
            )
        if not (rollout.text.strip() and rollout.token_ids):
            message = f"{of_side}: expected an answer of words, got {shown(rollout.text)}"
            raise RecordError(message, Reason.EMPTY_ANSWER)
        try:
            refuse_faults([(Question(pair.question_id, pair.topic, ()), rollout)], [answer.annotation])
        except AnnotatorError as error:
            raise RecordError(f"{of_side}: {error}", Reason.INVALID_SENTENCES) from None
        expected = score(answer.annotation)
        if expected is None:
            message = f"{of_side}: expected a sentence with another label than unparsed, got none"
            raise RecordError(message, Reason.UNLABELLED)
        if answer.score != expected:
            message = f"{of_side}: score: expected {expected}, which its labels give, got {answer.score}"
            raise RecordError(message, Reason.INVALID_PAIR)
    chosen, rejected = pair.chosen, pair.rejected
    if chosen.rollout.text == rejected.rollout.text:
        message = f"{where}: rejected: expected another answer than the chosen one, got the same text"
        raise RecordError(message, Reason.INVALID_PAIR)
    if chosen.score <= rejected.score:  # type: ignore[operator]  # both are numbers by now
        message = (
            f"{where}: chosen: score: expected more than {rejected.score}, the rejected answer's, got {chosen.score}"
        )
        raise RecordError(message, Reason.INVALID_PAIR)
