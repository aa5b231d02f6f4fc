"""Labelled text as a page shows it: passages of one label each, and nothing in them that could steer a reader's screen.

Model output is hostile until shown otherwise. Markup is the template's to escape; here go the characters that no
markup escapes: those that steer a terminal or turn the direction of writing are spelled out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from maskdpo_ray.records import Annotation, Rollout, Sentence

MOST_CHARACTERS = 4000
"""Characters of an answer that are shown."""
_JOINERS = "\u200c\u200d"
"""Format characters that spell words and emojis, and turn nothing."""


@dataclass(frozen=True)
class Passage:
    """A part of an answer."""

    text: str
    label: str | None = None
    """None: no sentence, as the white space between two."""
    title: str = ""
    """Kind of fact, confidence and evidence; empty when there is none of them."""
    is_thinking: bool = False


def visible(text: str, most: int | None = None) -> str:
    """Text of which every character shows itself, line ends and tabs aside; at most `most` characters of it."""
    cut = "" if most is None or len(text) <= most else f" [{len(text) - most:,} characters more]"
    return "".join(map(_spelled, text[:most])) + cut


def _spelled(character: str) -> str:
    steers = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    if not steers or character in "\n\t" or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def passages(rollout: Rollout, annotation: Annotation) -> list[Passage]:
    """An answer in its passages, in order; no more than `MOST_CHARACTERS` of it."""
    return list(_shown(rollout, annotation))


def _shown(rollout: Rollout, annotation: Annotation) -> Iterator[Passage]:
    text, at, left = rollout.text, 0, MOST_CHARACTERS
    parts = [(sentence.start, sentence.end, sentence) for sentence in annotation.sentences]
    thoughts = [(block.start, block.end, None) for block in rollout.blocks]
    for start, end, sentence in sorted([*parts, *thoughts], key=lambda part: part[:2]):
        start = max(start, at)  # labels of other programs may overlap
        if end <= start:
            continue
        for piece, of in ((text[at:start], Passage("")), (text[start:end], _passage(sentence))):
            if piece and left > 0:
                yield Passage(visible(piece, left), of.label, of.title, of.is_thinking)
            left -= len(piece)
        at = end
    if at < len(text) and left > 0:
        yield Passage(visible(text[at:], left))
    elif left < 0 or at < len(text):
        yield Passage(f" [cut off here: {len(text):,} characters]")


def _passage(sentence: Sentence | None) -> Passage:
    if sentence is None:
        return Passage("", is_thinking=True)
    said = [
        sentence.label.replace("_", " "),
        sentence.kind or "",
        "" if sentence.confidence is None else f"confidence {sentence.confidence:.2f}",
    ]
    title = " · ".join(visible(part, 80) for part in said if part)
    evidence = visible(sentence.evidence or "", 400)
    return Passage("", sentence.label, f"{title}: {evidence}" if evidence else title)
