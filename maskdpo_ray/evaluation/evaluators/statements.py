"""Statements of clauses, by rules: the words that say which fact a clause is about, and those that it claims.

"The capital of Rwanda is Kigali" is about "capital" and claims "Kigali"; "Kigali is the capital of Rwanda" too.
Words are compared without case, accents and the commonest endings, numbers by value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from maskdpo_ray.annotation.matching import folded

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
    """Form for comparison: "Mexicans" and "mexican" have one key."""
    value: float | None = None
    """Value of a number; "1.2 million" is one word."""

    def matches(self, other: Word, loosely: bool = False) -> bool:
        """Whether two words are one: numbers by value; names by key; `loosely` also "koruna" and "koruny"."""
        if self.value is not None or other.value is not None:
            return self.value is not None and other.value is not None and _close(self.value, other.value)
        return self.key == other.key or (loosely and _same_root(self.key, other.key))


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


_CUTS = re.compile(
    r";|,?\s+(?:but|while|whereas|although|though)\s+|,\s+(?:which|where|who|whose)\s+"
    r"|,?\s+and\s+(?=(?:its|it|the|they|has|have|is|are|was|uses|borders|lies|shares|belongs|speaks)\b)"
)
LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_VERBS = frozenset(
    "is are was were has have had borders border shares share uses use lies speaks speak includes include "
    "called named became belongs located bordered discovered".split()
)
_NOTHING = frozenset(
    "a an the of in on at by to for from with and or as its it is are was were be been being also one ones their there "
    "they this that these those which who whose s into about such some has have had not "
    "city country nation state element chemical name named called located lies belongs "
    "part member official current do does did longer".split()
)
_NEGATIONS = frozenset("not no never neither nor isn aren wasn without".split())
_HOLDS = frozenset("has have".split())
_READER = frozenset("i me my we us our you your".split())
_NO_LONGER = ("used", "to")
_PRONOUNS = frozenset("it its they their he his she her".split())


@dataclass(frozen=True, slots=True)
class Statement:
    """One clause."""

    text: str
    about: tuple[Word, ...]
    """Common words that say which fact; they find the passages. Empty when nothing but the claim says it."""
    names: tuple[Word, ...]
    """Claimed names and numbers."""
    nouns: tuple[Word, ...]
    """Claimed common words."""
    denied: bool
    """Whether the clause denies something, or says that it is no longer true."""


def clauses(sentence: str) -> Iterator[str]:
    """The parts of a sentence that a verb of their own may have."""
    for part in _CUTS.split(LIST_MARK.sub("", sentence)):
        if part.strip():
            yield part.strip()


def read(clause: str, topic: str, common: frozenset[str]) -> Statement | None:
    """Read a clause about `topic`; None when it claims nothing (no verb, or nothing beyond the topic).

    `common` are words that the reference text has in lower case: at the beginning of a clause they are no names.
    """
    tokens, of_topic = words(clause), words(topic)
    said = [folded(word.text) for word in tokens]
    own = {folded(word.text) for word in of_topic}
    if len(of_topic) > 1:
        own.add(folded("".join(word.text[0] for word in of_topic)))  # "UAE"

    def is_own(word: Word) -> bool:
        return folded(word.text) in own

    def is_name(i: int) -> bool:
        word = tokens[i]
        return word.value is not None or (word.text[:1].isupper() and not (i == 0 and folded(word.text) in common))

    def on_topic(side: range) -> bool:
        return any(is_own(tokens[i]) or folded(tokens[i].text) in _PRONOUNS for i in side)

    def says_something(i: int) -> bool:
        before, word, after = (said[j] if 0 <= j < len(said) else "" for j in (i - 1, i, i + 1))
        if word == "one":  # "has one neighbour" counts, "one neighbour is" does not
            return before in _HOLDS
        return word not in _NOTHING | _NEGATIONS and (word, after) != _NO_LONGER

    at = next((i for i, word in enumerate(said) if word in _VERBS), None)
    if at is None:
        heading, colon, _ = clause.partition(":")
        at = len(words(heading)) if colon else None
    if at is None and on_topic(range(len(tokens))) and not _READER & set(said):
        # A full verb ("won", "moved") is the first common word: without it in the passage the clause is unsupported.
        at = next(
            (i for i in range(len(tokens)) if says_something(i) and not is_own(tokens[i]) and not is_name(i)), None
        )
    if at is None:
        return None
    content = [i for i, word in enumerate(tokens) if says_something(i) and not is_own(word)]
    left, right = range(at), range(at, len(tokens))
    named_after = on_topic(right) and not on_topic(left)
    asked, claimed = (right, left) if named_after else (left, right)
    names = [i for i in content if is_name(i)]
    nouns = [i for i in content if i in claimed and i not in names and folded(tokens[i].text) not in _VERBS]
    # "Rwandan franc" says no more than "franc"; but "Turkish", of Turkey, is a claim when it is all there is.
    adjectives = {i for i in names if any(tokens[i].matches(each, loosely=True) for each in of_topic)}
    if len(adjectives) < len(names) + len(nouns):
        names = [i for i in names if i not in adjectives]
    if not names and not nouns:
        return None
    about = [i for i in content if i in asked and not is_name(i) and folded(tokens[i].text) not in _VERBS]
    if "official" in folded(clause):
        about = [i for i, word in enumerate(tokens) if i in about or folded(word.text) == "official"]
    return Statement(
        clause,
        tuple(tokens[i] for i in about),
        tuple(tokens[i] for i in names),
        tuple(tokens[i] for i in nouns),
        any(word in _NEGATIONS for word in said) or _NO_LONGER in pairwise(said),
    )
