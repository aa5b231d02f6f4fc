"""Places in an answer of the sentences that another splitter cut and rewrote.

The ANAH splitter moves white space ("3.5" comes out as "3. 5", "Jan. 5" as "Jan.5") and others strip Markdown, so
only the other characters are compared: each sentence's must stand in the answer unchanged and in order. What stands
there not at all, or in several places, is refused: a guess would mask the wrong tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.errors import RecordError, shown

_MARKDOWN = frozenset("*_`#~>")


def locate(text: str, sentences: Sequence[str], where: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in characters of `text`, in order and not overlapping.

    A sentence starts where the previous one ended; uncovered text may lie between them if the sentence occurs only once
    after it. Raises RecordError, "`where`[index]: ...", for a sentence that can't be located.
    """
    try:
        return _located(text, sentences, frozenset(), where)
    except RecordError:
        if _MARKDOWN.isdisjoint(text):
            raise
    return _located(text, sentences, _MARKDOWN, where)


def _located(text: str, sentences: Sequence[str], ignored: frozenset[str], where: str) -> list[tuple[int, int]]:
    places = [i for i, character in enumerate(text) if _counts(character, ignored)]
    letters = "".join(text[i] for i in places)
    spans: list[tuple[int, int]] = []
    at = 0
    for index, sentence in enumerate(sentences):
        wanted = "".join(character for character in sentence if _counts(character, ignored))
        found = at if letters.startswith(wanted, at) else letters.find(wanted, at)
        if not wanted or found < 0:
            raise RecordError(
                f"{where}[{index}]: expected a sentence of the answer after the one before it, got {shown(sentence)}",
                Reason.INVALID_SENTENCES,
            )
        if found > at and letters.find(wanted, found + 1) >= 0:
            raise RecordError(
                f"{where}[{index}]: expected a sentence that stands in one place only, or directly after the one "
                f"before it, got {shown(sentence)}",
                Reason.INVALID_SENTENCES,
            )
        at = found + len(wanted)
        spans.append((places[found], places[at - 1] + 1))
    return spans


def _counts(character: str, ignored: frozenset[str]) -> bool:
    return not character.isspace() and character not in ignored
