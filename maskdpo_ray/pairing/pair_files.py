"""Pairs of a file to learn from: questions of a run, pairs of ours, or preference data of others.

A pair of ours, which anybody may have edited, is whole when `maskdpo_ray.pairs` could have made it: two labelled
answers to its question, the chosen one's score higher. Text preferences become token ids as the policy's chat renders
them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation.replay import ReplayAnnotator
from maskdpo_ray.annotation.replies import refuse_annotation_faults
from maskdpo_ray.data import formats
from maskdpo_ray.data.answers import refuse_impossible, refuse_negative
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats.preference import SIDES, Preference
from maskdpo_ray.data.jsonl import record
from maskdpo_ray.data.rows import Columns, rows
from maskdpo_ray.errors import AnnotatorError, DataError, RecordError, shown
from maskdpo_ray.models import prompts
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing.scoring import Score, precision, scored
from maskdpo_ray.records import (
    UNPARSED,
    Annotation,
    CommittedQuestion,
    PreferencePair,
    Question,
    Rollout,
    Sentence,
    encode_line,
)


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

    def __init__(self, score: Score | None = precision) -> None:
        """`score`: what the pairs were made with, as their labels must give the scores in the file; None: unknown."""
        self._once = Once()
        self._score = score

    def read(self, item: dict[str, Any], where: str) -> list[PreferencePair]:
        """The whole pairs of a JSON object of the file: one, or all of a run's question.

        Raises RecordError naming `where` and the field.
        """
        is_question = "rollouts" in item
        pairs = (
            record(CommittedQuestion, item, where).preference_pairs()
            if is_question
            else [record(PreferencePair, item, where)]
        )
        for number, pair in enumerate(pairs):
            of_pair = f"{where}: pairs[{number}]" if is_question else where
            _refuse_incomplete(pair, of_pair, self._score)
            self._once.refuse(pair, of_pair)
        return pairs


def _refuse_incomplete(pair: PreferencePair, where: str, score: Score | None) -> None:
    refuse_negative(pair.prompt_token_ids, f"{where}: prompt_token_ids")
    for side, answer in pair.sides().items():
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
            refuse_annotation_faults([(Question(pair.question_id, pair.topic, ()), rollout)], [answer.annotation])
        except AnnotatorError as error:
            raise RecordError(f"{of_side}: {error}", Reason.INVALID_SENTENCES) from None
        if precision(answer.annotation) is None:
            message = f"{of_side}: expected a sentence with another label than unparsed, got none"
            raise RecordError(message, Reason.UNLABELLED)
        expected = answer.score if score is None else score(answer.annotation)
        # Logarithms, of a score of the user's, differ in their last digit between machines.
        if expected is None or answer.score is None or not math.isclose(expected, answer.score, abs_tol=1e-9):
            message = f"{of_side}: score: expected {expected}, which its labels give by pairs.score, got {answer.score}"
            raise RecordError(message, Reason.INVALID_PAIR)
    chosen, rejected = pair.chosen, pair.rejected
    if chosen is None or rejected is None:
        return
    if chosen.rollout.text == rejected.rollout.text:
        message = f"{where}: rejected: expected another answer than the chosen one, got the same text"
        raise RecordError(message, Reason.INVALID_PAIR)
    if chosen.score <= rejected.score:  # type: ignore[operator]  # both are numbers by now
        message = (
            f"{where}: chosen: score: expected more than {rejected.score}, the rejected answer's, got {chosen.score}"
        )
        raise RecordError(message, Reason.INVALID_PAIR)


POLICY_VERSION = 0
"""Version of answers that no policy of ours sampled: they count as the initial policy's."""


def to_pair(preference: Preference, chat: Chat, where: str) -> PreferencePair:
    """A labelled preference as a training pair: token for token the template's finished conversations.

    Raises RecordError as `Chat.turns` does, and for an answer without a labelled sentence left (`no_sentence`);
    DataError without labels, ModelError when the tokenizer has no chat template.
    """
    given = preference.sides()
    for side, answer in given.items():
        if not answer.sentences:
            raise DataError(f"{where}: {side}: expected labelled sentences, got none")
    try:
        prompt_ids, turns = chat.turns(preference.prompt, [answer.text for answer in given.values()])
        answers = {}
        for sample, ((side, answer), turn) in enumerate(zip(given.items(), turns, strict=True)):
            name = preference.question_id
            rollout = Rollout(name, sample, turn.token_ids, turn.text, "stop", POLICY_VERSION, turn.blocks)
            sentences = turn.spans(answer.text, answer.sentences)
            if not sentences:
                raise RecordError(f"{side}: expected a labelled sentence beside thinking, got none", Reason.NO_SENTENCE)
            answers[side] = scored(rollout, Annotation(name, sample, sentences))
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
    chosen, rejected = answers.get("chosen"), answers.get("rejected")
    return PreferencePair(preference.question_id, preference.topic, prompt_ids, chosen, rejected, POLICY_VERSION)


@dataclass(frozen=True)
class PairsReader:
    """How to read one."""

    chat: Chat
    max_len: int
    """Limit of prompt and answer together, tokens."""
    vocab_size: int
    annotations: Path | None
    """Labels of answers that have none, as `annotate` writes them."""
    needs_labels: bool
    """False under a mask to which all labels are the same."""
    score: Score = precision
    """The score that pairs of ours were made with."""
    columns: Columns | None = None
    """See `rows.Columns`."""
    drops: Counter[str] = field(default_factory=Counter)
    """Why questions of a run gave no pair, counted by `read`."""

    def read(self, path: Path, dropped: Dropped | None = None) -> Iterator[PreferencePair]:
        """Read every pair in file order; unusable ones go to `dropped`.

        Raises DataError and ModelError, naming the line.
        """
        dropped = dropped or Dropped(path)
        labels = None if self.annotations is None else ReplayAnnotator(str(self.annotations), dropped.highest)
        own, once = OwnPairs(self.score), Once()

        def pairs_of(found: tuple[str, dict[str, Any]]) -> list[PreferencePair]:
            where, item = found
            if "prompt_token_ids" in item or "rollouts" in item:
                pairs = own.read(item, where)
                if not pairs:
                    self.drops.update(item.get("drops") or ["no_pair"])
            else:
                preference = formats.preference(item, where)
                unnamed = {"question_id": "", "topic": ""} if preference.question_id == where else {}
                once.refuse(replace(preference, **unnamed), where)
                prompts.refuse_left_out(self.chat, preference.prompt, f"{where}: prompt")
                pairs = [to_pair(self._labelled(preference, labels, path, where), self.chat, where)]
            for pair in pairs:
                self._refuse_unfit(pair, where)
            return pairs

        return chain.from_iterable(dropped.sift(rows(path, dropped, self.columns, needed=SIDES), pairs_of))

    def _labelled(self, preference: Preference, labels: ReplayAnnotator | None, path: Path, where: str) -> Preference:
        for sample, (side, answer) in enumerate(preference.sides().items()):
            if answer.sentences:
                continue
            if labels is not None:
                sentences = _looked_up(preference.question_id, sample, answer.text, labels, where)
            elif self.needs_labels:
                raise RecordError(
                    f"{where}: {side}: expected labelled sentences, got none; label them first, "
                    f"python -m maskdpo_ray.annotate {path} -o labels.jsonl, and add --annotations labels.jsonl",
                    Reason.UNLABELLED,
                )
            else:
                sentences = (Sentence(0, len(answer.text), UNPARSED),)
            preference = replace(preference, **{side: replace(answer, sentences=sentences)})
        return preference

    def _refuse_unfit(self, pair: PreferencePair, where: str) -> None:
        """Refuse what the model can't take in."""
        if not pair.prompt_token_ids:
            raise RecordError(f"{where}: prompt_token_ids: expected at least one, got none", Reason.EMPTY_PROMPT)
        for side, answer in pair.sides().items():
            ids = (*pair.prompt_token_ids, *answer.rollout.token_ids)
            if len(ids) > self.max_len:
                raise RecordError(
                    f"{where}: {side}: expected at most {self.max_len} tokens with the prompt "
                    f"(vllm.max_model_len, by default the model's context), got {len(ids)}",
                    Reason.TOO_LONG,
                )
            if bad := [token for token in ids if not 0 <= token < self.vocab_size]:
                raise RecordError(
                    f"{where}: {side}: expected token ids below the model's vocab_size {self.vocab_size}, got {bad[0]}",
                    Reason.OUTSIDE_VOCABULARY,
                )


def _looked_up(question_id: str, sample: int, text: str, labels: ReplayAnnotator, where: str) -> tuple[Sentence, ...]:
    answer = Rollout(question_id, sample, (), text, "stop", 0)
    try:
        return labels.annotate([(Question(question_id, "", ()), answer)])[0].sentences
    except AnnotatorError as error:
        raise RecordError(f"{where}: {error}", Reason.UNLABELLED) from None
