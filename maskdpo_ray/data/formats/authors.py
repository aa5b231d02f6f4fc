"""The Mask-DPO authors' preference JSON (https://github.com/open-compass/ANAH, maskdpo/).

{"prompt": [messages], "chosen": [the assistant's message], "chosen_item": {"sents": [text], "type": [label]},
 "rejected": ..., "rejected_item": ...}

Their loss knows two types: "hallucination" is masked in chosen answers, "no_hallucination" in rejected ones. Their
annotator has four others. Sentences are text, cut and rewritten by their splitter; `alignment.py` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats import conversation
from maskdpo_ray.data.formats.alignment import locate
from maskdpo_ray.data.formats.preference import SIDES, Answer, Preference, both, columns, from_columns
from maskdpo_ray.errors import RecordError, shown
from maskdpo_ray.records import CONTRADICTORY, CORRECT, LABELS, NO_FACT, NO_HALLUCINATION, UNPARSED, Record, Sentence
from maskdpo_ray.records import from_json as record_of
from maskdpo_ray.records import to_json as fields_of

RIGHT, WRONG = "no_hallucination", "hallucination"
# Our own names, and theirs. `hallucination` does not say of which kind; Mask-DPO's mask treats both alike.
_LABELS = {label: label for label in LABELS} | {WRONG: CONTRADICTORY, "ok": NO_HALLUCINATION, "nofact": NO_FACT}
_NAMED = ("prompt", "chosen", "chosen_item", "rejected", "rejected_item")


class Item(Record):
    """The labels of one answer, as the authors write them."""

    sents: tuple[str, ...]
    type: tuple[str, ...]
    """One per sentence."""


class AuthorsPair(Record):
    """One item of a file, with nothing changed."""

    prompt: tuple[dict[str, Any], ...]
    chosen: tuple[dict[str, Any], ...]
    """One message, the assistant's."""
    chosen_item: Item
    rejected: tuple[dict[str, Any], ...]
    rejected_item: Item
    others: dict[str, Any] = {}
    """Columns that the format does not name."""


def read(item: Mapping[str, Any], where: str) -> Preference:
    """One item, its sentences located in the answers. Raises RecordError."""
    return to_preference(parse(item, where), where)


def to_json(preference: Preference) -> dict[str, Any]:
    """One item, with our labels in extra columns. Raises RecordError when a side has no labels."""
    return unparse(from_preference(preference))


def parse(item: Mapping[str, Any], where: str) -> AuthorsPair:
    """One item unchanged; `unparse` reverses it. Raises RecordError."""
    named = {name: value for name, value in item.items() if name in _NAMED}
    others = {name: value for name, value in item.items() if name not in _NAMED}
    try:
        return record_of(AuthorsPair, {**named, "others": others})
    except ValueError as error:
        raise RecordError(f"{where}: {error}", Reason.INVALID_FIELD) from None


def unparse(pair: AuthorsPair) -> dict[str, Any]:
    """The item that `parse` read."""
    item = fields_of(pair)
    others: dict[str, Any] = item.pop("others")
    return item | others


def to_preference(pair: AuthorsPair, where: str) -> Preference:
    """Locate the sentences, or take our own labels where `to_json` left them.

    Raises RecordError naming a sentence that can't be located, an unknown type, or our labels where they contradict the
    item.
    """
    prompt = conversation.with_system(conversation.prompt(pair.prompt, f"{where}: prompt"), pair.others, where)
    texts = {side: _text(getattr(pair, side), f"{where}: {side}") for side in SIDES}
    preference = from_columns(pair.others, prompt, texts, where)
    for side, answer in preference.sides().items():
        item: Item = getattr(pair, f"{side}_item")
        if answer.sentences is None:
            labelled = replace(answer, sentences=_sentences(answer.text, item, f"{where}: {side}_item"))
            preference = replace(preference, **{side: labelled})
        elif item != _item(answer, side):
            message = f"{where}: {side}_item: expected the sentences and types of {side}_sentences, got others"
            raise RecordError(message, Reason.INVALID_SENTENCES)
    return preference


def from_preference(preference: Preference) -> AuthorsPair:
    """The labels become the authors' two types. Raises RecordError when a side has no labels."""

    def said(answer: Answer) -> tuple[dict[str, Any], ...]:
        return ({"role": "assistant", "content": answer.text},)

    chosen, rejected = both(preference)
    return AuthorsPair(
        prompt=preference.prompt,
        chosen=said(chosen),
        chosen_item=_item(chosen, "chosen"),
        rejected=said(rejected),
        rejected_item=_item(rejected, "rejected"),
        others=columns(preference),
    )


def _text(said: tuple[dict[str, Any], ...], where: str) -> str:
    before, text = conversation.answer(said, where)
    if before:
        message = f"{where}: expected one message, the assistant's, got {shown(list(said))}"
        raise RecordError(message, Reason.INVALID_MESSAGES)
    return text


def _sentences(text: str, item: Item, where: str) -> tuple[Sentence, ...]:
    if len(item.sents) != len(item.type):
        message = f"{where}: expected one type per sentence, got {len(item.type)} for {len(item.sents)}"
        raise RecordError(message, Reason.INVALID_SENTENCES)
    for i, name in enumerate(item.type):
        if name not in _LABELS:
            message = f"{where}.type[{i}]: expected one of {', '.join(_LABELS)}, got {shown(name)}"
            raise RecordError(message, Reason.UNKNOWN_LABEL)
    spans = locate(text, item.sents, f"{where}.sents")
    return tuple(Sentence(*span, _LABELS[name]) for span, name in zip(spans, item.type, strict=True))


def _item(answer: Answer, side: str) -> Item:
    if answer.sentences is None:
        raise RecordError(f"{side}: expected labelled sentences, got none", Reason.UNLABELLED)
    return Item(
        tuple(answer.text[sentence.start : sentence.end] for sentence in answer.sentences),
        tuple(_type(sentence.label, side) for sentence in answer.sentences),
    )


def _type(label: str, side: str) -> str:
    """Type with which the authors' loss masks what ours does."""
    if label == UNPARSED:  # masked on both sides
        return WRONG if side == "chosen" else RIGHT
    return RIGHT if label in CORRECT else WRONG
