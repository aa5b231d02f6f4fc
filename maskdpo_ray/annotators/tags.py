"""Tags: the fixed texts that a judge may reply with, and how they are found in a reply."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, each of which is a word."""
_IS_WIDE = re.compile(f"[{_WIDE}]")
_CLAUSE = re.compile(r"[.,;:!?()\n。，；：！？、（）—–]|\b(?:so|but|thus|hence|therefore)\b")
_DENIES = re.compile(
    r"\b(?:not?|non|nor|neither|never|cannot|without|hardly|barely|partly|partially|mostly|almost|nearly|somewhat"
    r"|maybe|perhaps|possibly|might|may|could)\b|n['’]t\b|[不没无未否]|非(?!常)|部分|几乎|可能|也许|或许"
)
"""Words before a tag in its clause that negate, weaken or doubt it."""
_DENIED = re.compile(
    r"""[\s"'*_`>)\]”’」》]*(?:(?:is|was|does|would be)\s*n(?:ot|['’]t)\b|"""
    r""",?\s*(?:i think|i guess|maybe|perhaps|or not)\b)"""
    r"""|\W*(?:no|false|否|不|不是|没有)\W*(?:\n|\Z)"""
)
"""The same after a tag: "Contradictory isn't right", "Contradictory: no", "contradictory, I think"."""
_ENDS = re.compile(r"[^\S\n]*(?:\Z|\n|[^\w\s])")


def plain(text: str) -> str:
    """Letters and digits only, with width and case folded: "<No Facts>." -> "nofacts"."""
    return "".join(character for character in _folded(text) if character.isalnum())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@dataclass(frozen=True, slots=True)
class Held:
    """An occurrence of a tag in a reply."""

    meaning: str
    is_denied: bool
    """Whether the words around it negate it: "not contradictory"."""
    is_alone: bool
    """Whether punctuation or line ends separate it from the words around it."""
    num_words: int


class Tags:
    """Texts with one meaning each, found in a reply regardless of case, width, spaces and punctuation."""

    def __init__(self, meanings: Mapping[str, str]) -> None:
        """`meanings`: text -> its meaning; several texts may have the same one."""
        self._meanings = {plain(text): meaning for text, meaning in meanings.items()}
        self._longest_first = sorted(self._meanings, key=len, reverse=True)

    def __contains__(self, text: str) -> bool:
        """Whether `text` is a tag and nothing else."""
        return plain(text) in self._meanings

    def meaning(self, reply: str) -> str | None:
        """Meaning of `reply`; None unless it holds tags of exactly one meaning, none of them negated.

        ANAH-v2's evaluation also searches the whole reply for its tags; of two it takes the first in a fixed order.
        """
        held = list(self.held(reply))
        meanings = {tag.meaning for tag in held}
        return meanings.pop() if len(meanings) == 1 and not any(tag.is_denied for tag in held) else None

    def held(self, reply: str) -> Iterator[Held]:
        """The tags in `reply`, whole words only; of overlapping ones the first, of two with the same start the longer.

        So "no fact" contains no "fact", and "incorrect" no "correct".
        """
        text = _folded(reply)
        places = [place for place, character in enumerate(text) if character.isalnum()]
        letters = "".join(text[place] for place in places)
        first, free_from = 0, 0
        while first < len(letters):
            tag = next((t for t in self._longest_first if self._stands(t, letters, first, text, places)), None)
            if tag is None:
                first += 1
                continue
            start, end = places[first], places[first + len(tag) - 1] + 1
            before = _CLAUSE.split(text[free_from:start])[-1]
            line = text[text.rfind("\n", 0, start) + 1 : start].rstrip()
            yield Held(
                self._meanings[tag],
                bool(_DENIES.search(before) or _DENIED.match(text, end)),
                not line[-1:].isalnum() and bool(_ENDS.match(text, end)),
                sum(_is_edge(text, place) for place in places[first : first + len(tag)]),
            )
            first, free_from = first + len(tag), end

    @staticmethod
    def _stands(tag: str, letters: str, first: int, text: str, places: list[int]) -> bool:
        if not letters.startswith(tag, first) or not _is_edge(text, places[first]):
            return False
        behind = first + len(tag)
        return behind == len(letters) or _is_edge(text, places[behind]) or places[behind] != places[behind - 1] + 1


def _is_edge(text: str, place: int) -> bool:
    """Whether a word begins at `place`."""
    if place == 0 or not text[place - 1].isalnum():
        return True
    return bool(_IS_WIDE.match(text[place]) or _IS_WIDE.match(text[place - 1]))
