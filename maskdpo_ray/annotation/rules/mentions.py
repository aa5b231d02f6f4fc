"""Finds the names of a fact table in a sentence: entities, values, and the words that announce a fact."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from maskdpo_ray.data.domains.table import NUMBER, FactTable

ENTITY_SENSE = "entity"
OTHER_SENSE = "other"
_LETTER = r"(?:[^\W_]|[\u0300-\u0333])"
"""Accents that are characters of their own belong to the letter; strokes through it do not."""
_TOKEN = re.compile(rf"(?:[^\W\d_]\.){{2,}}|{_LETTER}+(?:['’ʻ`´]{_LETTER}+)*|[^\w\s]")
_HARMLESS = frozenset(
    ",;:=()[]*`´ʻ‘‚“”„«»‹›—…•¡¿。，、；：！？「」『』（）《》\ufe0e\ufe0f\u200b\u200c\u200d\u2060\ufeff\u00ad"
)
"""Characters that say nothing wherever they stand: punctuation, brackets, Markdown marks, invisible ones."""
_HYPHENS, _QUOTES = frozenset("-‐‑–"), frozenset("'’\"")
_PLAIN_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}
)
"""Letters that Unicode does not take apart into a plain one and an accent."""
_INSIDE_NAME = re.compile(r"[\s\-‐–.*_(]*")
_LONGEST_NAME = 8


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a sentence, or a sign that may change what it says: "≠", "%", the minus of "-6"."""

    text: str
    """Word as written, a possessive 's cut off."""
    key: str
    """Lower case, without accents, apostrophes and dots; "and" for "&"."""
    possessive: bool
    start: int
    end: int
    gap: str
    """Text between it and the next word."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A name of the table in a sentence: tokens start .. end - 1."""

    start: int
    end: int
    senses: tuple[tuple[str, str], ...]
    """(kind or "entity" or "other", name in the table): "Luxembourg" is an entity and a capital."""
    text: str

    def named(self, kind: str) -> frozenset[str]:
        """The names that it has as this kind."""
        return frozenset(name for sense, name in self.senses if sense == kind)


@dataclass(frozen=True, slots=True)
class Signal:
    """A trigger or cue of a kind: tokens start .. end - 1."""

    start: int
    end: int
    kind: str
    strong: bool


def key(word: str) -> str:
    """The form in which words are compared: "Côte" -> "cote", "Łódź" -> "lodz", "St" -> "saint"."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    plain = re.sub(r"['’ʻ`´.]", "", plain).lower().translate(_PLAIN_LETTERS) or word
    return {"st": "saint", "&": "and"}.get(plain, plain)


def tokens(text: str) -> list[Token]:
    """The words of a text, in order."""
    found: list[Token] = []
    matches = [m for m in _TOKEN.finditer(text) if m.end() - m.start() > 1 or _speaks(text, m.start())]
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        word, end = match.group(), match.end()
        gap = text[end : following.start() if following else len(text)]
        cut = re.sub(r"['’]s$", "", word)
        possessive = cut != word or bool(re.match(r"['’](?:\s|$)", gap) and word.endswith("s"))
        found.append(Token(cut, key(cut), possessive, match.start(), end, gap))
    return found


def _speaks(text: str, at: int) -> bool:
    """Whether the character is a letter, a digit or a sign, and not punctuation where punctuation belongs."""
    sign, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if sign in _HARMLESS:
        return False
    if sign == ".":
        return after.isdigit()  # ".6"
    if sign in "!?":
        return after.isalnum() or after == "="  # "!=", "!Nairobi"
    if sign in _HYPHENS:
        return after.isdigit() and not before.isalnum() or before.isalnum() and not after.isalnum()  # "-6", "C-"
    if sign in _QUOTES:
        return before.isdigit() and not set(text[:at]) & (_QUOTES | {"‘", "“"})  # feet and inches
    return True


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes")) and len(word) > 4:
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


class NameIndex:
    """Longest-match look-up of all names of a table."""

    def __init__(self, table: FactTable) -> None:
        self._names: dict[tuple[str, ...], list[tuple[str, str, str]]] = {}
        self._signals: dict[tuple[str, ...], list[tuple[str, bool]]] = {}
        for entity in table.entities:
            self._add((entity.name, *entity.aliases), ENTITY_SENSE, entity.name)
        for kind in table.kinds:
            if kind.shape != NUMBER:
                for value in kind.lexicon:
                    self._add((value.name, *value.aliases), kind.name, value.name)
            for words, strong in ((kind.triggers, True), (kind.cues, False)):
                for phrase in words:
                    path = tuple(_singular(t.key) for t in tokens(phrase))
                    self._signals.setdefault(path, []).append((kind.name, strong))
        self._add(table.other_names, OTHER_SENSE, "")

    def _add(self, names: Iterable[str], sense: str, owner: str) -> None:
        for name in names:
            path = tuple(token.key for token in tokens(name))
            entry = (sense, owner or name, name)
            if path and entry not in self._names.setdefault(path, []):
                self._names[path].append(entry)

    def mentions(self, words: list[Token]) -> list[Mention]:
        """The names in a sentence, longest first, none inside another."""
        found: list[Mention] = []
        position = 0
        while position < len(words):
            mention = next(
                (
                    m
                    for end in range(min(len(words), position + _LONGEST_NAME), position, -1)
                    if (m := self._match(words, position, end))
                ),
                None,
            )
            if mention:
                found.append(mention)
            position = mention.end if mention else position + 1
        return found

    def _match(self, words: list[Token], start: int, end: int) -> Mention | None:
        span = words[start:end]
        path = tuple(token.key for token in span)
        entries = self._names.get(path) or self._names.get((*path[:-1], _singular(path[-1])), [])
        gaps = [t.gap for t in span[:-1] if t.possessive or not _INSIDE_NAME.fullmatch(t.gap)]
        if gaps:  # "Washington, D.C." has a comma of its own
            entries = [entry for entry in entries if "," in entry[2] and all(gap.strip() == "," for gap in gaps)]
        written = " ".join(token.text for token in span)
        senses = [(sense, owner) for sense, owner, name in entries if _case_fits(name, written)]
        return Mention(start, end, tuple(dict.fromkeys(senses)), written) if senses else None

    def signals(self, words: list[Token]) -> list[Signal]:
        """Triggers and cues, in order. Of overlapping triggers the longest counts."""
        found: list[Signal] = []
        taken_until = 0
        for position in range(len(words)):
            for end in range(min(len(words), position + _LONGEST_NAME), position, -1):
                path = tuple(_singular(token.key) for token in words[position:end])
                kinds = self._signals.get(path, [])
                strong = [kind for kind, is_strong in kinds if is_strong and position >= taken_until]
                found += [Signal(position, end, kind, True) for kind in strong]
                found += [Signal(position, end, kind, False) for kind, is_strong in kinds if not is_strong]
                if strong:
                    taken_until = end
        return found


def _case_fits(name: str, written: str) -> bool:
    """Short names and abbreviations must be written as they are: "In" is no indium, "us" no United States."""
    letters = re.sub(r"[^A-Za-z]", "", name)
    if len(letters) <= 3 or letters.isupper():
        plain = re.sub(r"[^\w]", "", name)
        return re.sub(r"[^\w]", "", written) in {plain, plain + "s", plain.capitalize() if name.islower() else plain}
    return True
