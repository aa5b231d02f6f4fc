"""Answers and pairs of ours, read back from files that anybody may have edited.

A pair is whole when `pairs.py` could have made it: two labelled answers to its question, the chosen one's score higher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.annotators.conformance import refuse_faults
from maskdpo_ray.errors import AnnotatorError, DataError, shown
from maskdpo_ray.formats.json_items import record, records
from maskdpo_ray.formats.preference import SIDES
from maskdpo_ray.ledger import encode_line
from maskdpo_ray.pairs import score
from maskdpo_ray.records import PreferencePair, Question, Rollout, ScoredAnswer

_FINISHED = ("stop", "length")


class OwnPairs:
    """Reads the pairs of one file, which holds each of them once."""

    def __init__(self) -> None:
        self._places: dict[bytes, str] = {}

    def read(self, item: dict[str, Any], where: str) -> PreferencePair:
        """A JSON object of the file as a whole pair. Raises DataError naming `where` and the field."""
        pair = record(PreferencePair, item, where)
        _refuse_incomplete(pair, where)
        first = self._places.setdefault(hashlib.blake2b(encode_line(pair), digest_size=16).digest(), where)
        if first != where:
            raise DataError(f"{where}: expected each pair once, got that of {first} again")
        return pair


def rollouts(path: Path) -> Iterator[tuple[str, Rollout]]:
    """("file:line", answer) of a file of answers. Raises DataError naming line and field."""
    for where, rollout in records(Rollout, path):
        refuse_impossible(rollout, where)
        yield where, rollout


def refuse_impossible(rollout: Rollout, where: str) -> None:
    """Raise DataError naming `where` and the field whose value no answer has."""
    if rollout.finish_reason not in _FINISHED:
        expected = " or ".join(_FINISHED)
        raise DataError(f"{where}: finish_reason: expected {expected}, got {shown(rollout.finish_reason)}")
    for name in ("sample", "policy_version"):
        if (number := getattr(rollout, name)) < 0:
            raise DataError(f"{where}: {name}: expected 0 or more, got {number}")
    _refuse_negative(rollout.token_ids, f"{where}: token_ids")


def _refuse_negative(token_ids: tuple[int, ...], where: str) -> None:
    if negative := [token for token in token_ids if token < 0]:
        raise DataError(f"{where}: expected token ids of 0 or more, got {negative[0]}")


def _refuse_incomplete(pair: PreferencePair, where: str) -> None:
    _refuse_negative(pair.prompt_token_ids, f"{where}: prompt_token_ids")
    for side in SIDES:
        answer: ScoredAnswer = getattr(pair, side)
        rollout, of_side = answer.rollout, f"{where}: {side}"
        refuse_impossible(rollout, of_side)
        if rollout.question_id != pair.question_id:
            raise DataError(
                f"{of_side}: question_id: expected {shown(pair.question_id)}, as the pair's, "
                f"got {shown(rollout.question_id)}"
            )
        if not (rollout.text.strip() and rollout.token_ids):
            raise DataError(f"{of_side}: expected an answer of words, got {shown(rollout.text)}")
        try:
            refuse_faults([(Question(pair.question_id, pair.topic, ()), rollout)], [answer.annotation])
        except AnnotatorError as error:
            raise DataError(f"{of_side}: {error}") from None
        expected = score(answer.annotation)
        if expected is None:
            raise DataError(f"{of_side}: expected a sentence with another label than unparsed, got none")
        if answer.score != expected:
            raise DataError(f"{of_side}: score: expected {expected}, which its labels give, got {answer.score}")
    chosen, rejected = pair.chosen, pair.rejected
    if chosen.rollout.text == rejected.rollout.text:
        raise DataError(f"{where}: rejected: expected another answer than the chosen one, got the same text")
    if chosen.score <= rejected.score:  # type: ignore[operator]  # both are numbers by now
        raise DataError(
            f"{where}: chosen: score: expected more than {rejected.score}, the rejected answer's, got {chosen.score}"
        )
