"""Tags: the fixed texts that a judge may reply with, and which of them a reply holds."""

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
"""Before a tag in its clause: what takes it back, some of it, or is in doubt about it."""
_DENIED = re.compile(
    r"""[\s"'*_`>)\]”’」》]*(?:(?:is|was|does|would be)\s*n(?:ot|['’]t)\b|"""
    r""",?\s*(?:i think|i guess|maybe|perhaps|or not)\b)"""
    r"""|\W*(?:no|false|否|不|不是|没有)\W*(?:\n|\Z)"""
)
"""Behind it: "Contradictory isn't right", "Contradictory: no", "contradictory, I think"."""
_ENDS = re.compile(r"[^\S\n]*(?:\Z|\n|[^\w\s])")


def plain(text: str) -> str:
    """Letters and digits only, one width, one case: "<No Facts>." -> "nofacts"."""
    return "".join(character for character in _folded(text) if character.isalnum())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@dataclass(frozen=True, slots=True)
class Held:
    """A tag where it stands in a reply."""

    meaning: str
    is_denied: bool
    """Whether the words around it take it back: "not contradictory"."""
    is_alone: bool
    """Whether it is set apart from the words around it, by marks or line ends."""
    num_words: int


class Tags:
    """Texts with a meaning each, found in a reply whatever their case, width, spaces and punctuation."""

    def __init__(self, meanings: Mapping[str, str]) -> None:
        """`meanings`: text -> its meaning; several texts may have the same one."""
        self._meanings = {plain(text): meaning for text, meaning in meanings.items()}
        self._longest_first = sorted(self._meanings, key=len, reverse=True)

    def __contains__(self, text: str) -> bool:
        """Whether `text` is one of them and nothing else."""
        return plain(text) in self._meanings

    def meaning(self, reply: str) -> str | None:
        """What `reply` means; None unless it holds tags of one meaning, and none that its words take back.

        ANAH-v2's evaluation looks for its tags anywhere in a reply too, and takes the first in an order of its own
        where there are two.
        """
        held = list(self.held(reply))
        meanings = {tag.meaning for tag in held}
        return meanings.pop() if len(meanings) == 1 and not any(tag.is_denied for tag in held) else None

    def held(self, reply: str) -> Iterator[Held]:
        """The tags in `reply`, whole words only; the first one where two overlap, the longer one of two that begin it.

        So there is no "fact" in "no fact", no "correct" in "incorrect".
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
