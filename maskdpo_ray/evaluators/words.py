"""Words as the rules compare them: without case, accents and the commonest endings; numbers by value."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_EXACT_BELOW = 2200
"""Smaller whole numbers (counts, years) must be equal; larger ones and fractions may be rounded."""
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Word:
    """A word or number of a text."""

    text: str
    key: str
    """What is compared: "Mexicans" and "mexican" have one key."""
    value: float | None = None
    """Of a number, "1.2 million" being one word."""

    def matches(self, other: Word, loosely: bool = False) -> bool:
        """Whether two words are one: numbers by value; names by key; `loosely` also "koruna" and "koruny"."""
        if self.value is not None or other.value is not None:
            return self.value is not None and other.value is not None and _close(self.value, other.value)
        return self.key == other.key or (loosely and _same_root(self.key, other.key))


def folded(text: str) -> str:
    """Lower case, without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


@lru_cache(maxsize=8192)
def words(text: str) -> tuple[Word, ...]:
    """The words and numbers of `text`, in order."""
    found: list[Word] = []
    for match in _TOKEN.finditer(_POSSESSIVE.sub("", text)):
        token = match.group()
        if not token[0].isdecimal():
            scale = _SCALES.get(token.casefold())
            if scale and found and found[-1].value is not None:
                number = found.pop()
                found.append(Word(f"{number.text} {token}", number.key, (number.value or 0) * scale))
            else:
                found.append(Word(token, _stem(folded(token))))
        else:
            found.append(Word(token, token, _number(token)))
    return tuple(found)


def _number(token: str) -> float:
    groups = token.split(",")
    is_grouped = len(groups) > 1 and all(len(group.partition(".")[0]) == 3 for group in groups[1:])
    text = token.replace(",", "") if is_grouped else token.replace(",", ".")
    return float(text) if text.count(".") < 2 else float(text.replace(".", ""))


def _close(one: float, other: float) -> bool:
    is_exact = all(number < _EXACT_BELOW and number.is_integer() for number in (one, other))
    return one == other if is_exact else abs(one - other) <= _TOLERANCE * max(abs(one), abs(other))


def _stem(word: str) -> str:
    for ending, instead, least in (("ies", "y", 5), ("ses", "s", 6), ("s", "", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    if len(word) >= 6 and word.endswith("ern"):  # "western"
        return word[:-3]
    return word[:-1] if len(word) >= 5 and word.endswith("an") else word  # "african"


def _same_root(one: str, other: str) -> bool:
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= 4 and max(len(one), len(other)) - shared <= 3
