"""What a clause states, by rules: the words that say which fact it is about, and those that it claims.

"The capital of Rwanda is Kigali" is about "capital" and claims "Kigali"; "Kigali is the capital of Rwanda" too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from maskdpo_ray.evaluators.words import Word, folded, words

_CUTS = re.compile(
    r";|,?\s+(?:but|while|whereas|although|though)\s+|,\s+(?:which|where|who|whose)\s+"
    r"|,?\s+and\s+(?=(?:its|it|the|they|has|have|is|are|was)\b)"
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_VERBS = frozenset(
    "is are was were has have had borders border shares share uses use lies speaks speak includes include "
    "called named became belongs located bordered discovered".split()
)
_NOTHING = frozenset(
    "a an the of in on at by to for from with and or as its it is are was were be been being also one ones their there "
    "they this that these those which who whose known s into about such some has have had not very most more than "
    "city country nation state republic kingdom element chemical name named called located lies belongs "
    "part member only main official current".split()
)
_NEGATIONS = frozenset("not no never neither nor isn aren wasn without".split())
_PRONOUNS = frozenset("it its they their he his she her".split())


@dataclass(frozen=True, slots=True)
class Statement:
    """One clause."""

    text: str
    about: tuple[str, ...]
    """Common words that say which fact; they find the passages. Empty when nothing but the claim says it."""
    names: tuple[Word, ...]
    """Claimed names and numbers."""
    nouns: tuple[Word, ...]
    """Claimed common words."""
    denied: bool
    """The clause says that something is not so."""


def clauses(sentence: str) -> Iterator[str]:
    """The parts of a sentence that a verb of their own may have."""
    for part in _CUTS.split(_LIST_MARK.sub("", sentence)):
        if part.strip():
            yield part.strip()


def read(clause: str, topic: str, common: frozenset[str]) -> Statement | None:
    """What `clause` states of `topic`; None when it claims nothing (no verb, or nothing beyond the topic).

    `common` are words that the reference text has in lower case: at the beginning of a clause they are no names.
    """
    tokens, of_topic = words(clause), words(topic)
    own = {folded(word.text) for word in of_topic}
    if len(of_topic) > 1:
        own.add(folded("".join(word.text[0] for word in of_topic)))  # "UAE"
    at = next((i for i, word in enumerate(tokens) if folded(word.text) in _VERBS), None)
    if at is None:
        heading, colon, _ = clause.partition(":")
        at = len(words(heading)) if colon else None
    if at is None:
        return None

    def is_own(word: Word) -> bool:
        return folded(word.text) in own

    def is_name(i: int) -> bool:
        word = tokens[i]
        return word.value is not None or (word.text[:1].isupper() and not (i == 0 and folded(word.text) in common))

    def on_topic(side: range) -> bool:
        return any(is_own(tokens[i]) or folded(tokens[i].text) in _PRONOUNS for i in side)

    content = [i for i, word in enumerate(tokens) if folded(word.text) not in _NOTHING and not is_own(word)]
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
        tuple(tokens[i].text for i in about),
        tuple(tokens[i] for i in names),
        tuple(tokens[i] for i in nouns),
        any(folded(word.text) in _NEGATIONS for word in tokens),
    )
