"""A preference pair as text: what all formats have in common, and the columns that carry our labels in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats.conversation import Messages
from maskdpo_ray.errors import RecordError, shown
from maskdpo_ray.records import LABELS, PreferencePair, Question, ScoredAnswer, Sentence, from_json, to_json

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Answer:
    """One side of a pair."""

    text: str
    sentences: tuple[Sentence, ...] | None = None
    """Labelled spans of `text`, in order and not overlapping; None when nobody has labelled it."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A question with a better and a worse answer, or with one of the two."""

    question_id: str
    topic: str
    prompt: Messages
    """Chat messages, each {"role", "content"}; the last one is the user's, or a tool's."""
    chosen: Answer | None
    rejected: Answer | None

    def sides(self) -> dict[str, Answer]:
        """The answers that there are, by side."""
        return {side: answer for side in SIDES if (answer := getattr(self, side)) is not None}


def from_pair(pair: PreferencePair, question: Question, where: str = "pair") -> Preference:
    """The text of one of our pairs. Token ids, policy version and scores are left out.

    Raises RecordError naming `where` when it has one answer alone.
    """
    if pair.chosen is None or pair.rejected is None:
        raise RecordError(f"{where}: expected a chosen and a rejected answer, got one of them", Reason.INVALID_PAIR)

    def answer(side: ScoredAnswer) -> Answer:
        return Answer(side.rollout.text, side.annotation.sentences)

    return Preference(pair.question_id, pair.topic, question.prompt, answer(pair.chosen), answer(pair.rejected))


def both(preference: Preference) -> tuple[Answer, Answer]:
    """The chosen and the rejected answer. Raises RecordError when there is one alone."""
    if preference.chosen is None or preference.rejected is None:
        raise RecordError("expected a chosen and a rejected answer, got one of them", Reason.INVALID_PAIR)
    return preference.chosen, preference.rejected


def columns(preference: Preference) -> dict[str, Any]:
    """The columns that no trainer asks for and that keep what it has no place for."""
    found: dict[str, Any] = {"question_id": preference.question_id, "topic": preference.topic}
    for side, answer in preference.sides().items():
        if answer.sentences is not None:
            found[f"{side}_sentences"] = [to_json(sentence) for sentence in answer.sentences]
    return found


def from_columns(item: Mapping[str, Any], prompt: Messages, texts: Mapping[str, str], where: str) -> Preference:
    """A preference of `prompt` and `texts` ({side: answer}, of one side or both).

    The fields that `columns` wrote to `item` count, if there are any.

    Without `question_id` the id is `where`, without `topic` the topic is the id. Raises RecordError.
    """
    question_id = _name(item, "question_id", where) or where
    topic = _name(item, "topic", where) or question_id
    found = {side: Answer(text, _sentences(item, side, text, where)) for side, text in texts.items()}
    return Preference(question_id, topic, prompt, found.get("chosen"), found.get("rejected"))


def _name(item: Mapping[str, Any], column: str, where: str) -> str | None:
    value = item.get(column)
    if value is not None and not (isinstance(value, str) and value.strip()):
        message = f"{where}: {column}: expected text that is not empty, got {shown(value)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    return value


def _sentences(item: Mapping[str, Any], side: str, text: str, where: str) -> tuple[Sentence, ...] | None:
    values = item.get(f"{side}_sentences")
    if values is None:
        return None
    where = f"{where}: {side}_sentences"
    if not isinstance(values, list):
        raise RecordError(f"{where}: expected a list, got {shown(values)}", Reason.INVALID_FIELD)
    sentences: list[Sentence] = []
    least = 0
    for i, value in enumerate(values):
        try:
            sentence = from_json(Sentence, value)
        except ValueError as error:
            raise RecordError(f"{where}[{i}]: {error}", Reason.INVALID_FIELD) from None
        start, end = sentence.start, sentence.end
        if not (least <= start < end <= len(text) and text[start:end].strip()):
            message = f"{where}[{i}]: expected words within {least} to {len(text)}, got {start} to {end}"
            raise RecordError(message, Reason.INVALID_SENTENCES)
        if sentence.label not in LABELS:
            message = f"{where}[{i}].label: expected one of {', '.join(LABELS)}, got {shown(sentence.label)}"
            raise RecordError(message, Reason.UNKNOWN_LABEL)
        sentences.append(sentence)
        least = end
    return tuple(sentences)
