"""Clauses of a sentence: where one ends, and the grammar that tells values from subjects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from maskdpo_ray.annotation.rules.mentions import ENTITY_SENSE, Mention, NameIndex, Signal, Token, tokens

COPULAS = frozenset("is are was were called named being remains as".split())
VERBS = COPULAS | frozenset("has have uses use borders border shares share lies speaks belongs".split())
OF = frozenset("of in for to throughout by".split())
ARTICLES = frozenset("the a an republic country nation state kingdom element".split())
NEGATIONS = frozenset("not isnt never neither doesnt arent cannot dont wasnt except excluding".split())
_DIRECT = frozenset(
    (
        "the a an one of its their official sole only main primary national current and largest city also "
        "widely commonly mainly mostly primarily both two three"
    ).split()
)
_SPLITTERS = frozenset("but while whereas although though however".split())
_RELATIVES = frozenset("which who whose where".split())
_AFTER_AND = frozenset("its it the they has have is are uses also their there".split())


@dataclass(frozen=True, slots=True)
class Clause:
    """A part of a sentence with one subject."""

    words: tuple[Token, ...]
    mentions: tuple[Mention, ...]
    signals: tuple[Signal, ...]
    start: int
    """First character in the sentence, an "and" before it included; the clause ends where the next one starts."""
    subject: tuple[str, ...]
    """Entities that the sentence gives it from outside ("Uganda, whose capital ..."); mostly empty."""

    def region(self, signal: Signal) -> tuple[int, int]:
        """Words among which the values stand: after "... is", or before "is the capital", or anywhere."""
        if (copula := self.copula_after(signal)) is not None:
            return copula, len(self.words)
        if (end := self.copula_before(signal)) is not None:
            return 0, end
        if self.introduces_with_of(signal):
            return signal.end + 1, len(self.words)
        return 0, len(self.words)

    def introduces_with_of(self, signal: Signal) -> bool:
        """ "... with its capital city of Kigali": "of" introduces the value, not the subject."""
        after = self.words[signal.end + 1] if signal.end + 1 < len(self.words) else None
        return bool(
            after
            and self.words[signal.end].key == "of"
            and after.text[:1].isupper()
            and self.copula_after(signal) is None
            and self.copula_before(signal) is None
            and not any(m.start == signal.end + 1 and m.named(ENTITY_SENSE) for m in self.mentions)
        )

    def copula_after(self, signal: Signal) -> int | None:
        goes_on = signal.end < len(self.words) and self.words[signal.end].key != "and"
        if goes_on and "," in self.words[signal.end - 1].gap:  # "the currency, the sol, is ..."
            return signal.end
        for i in range(signal.end - 1, len(self.words)):
            if i >= signal.end and self.words[i].text in COPULAS:  # "As" and "Is" may be symbols
                return i + 1
            if ":" in self.words[i].gap or "=" in self.words[i].gap:
                return i + 1
        return None

    def copula_before(self, signal: Signal) -> int | None:
        for i in range(signal.start - 1, -1, -1):
            if self.words[i].key in COPULAS:
                return i
            if self.words[i].key not in _DIRECT and not self.words[i].possessive:
                return None
        return None

    def subject_mention(self, signal: Signal | None) -> Mention | None:
        entities = [m for m in self.mentions if m.named(ENTITY_SENSE)]
        for m in entities:  # "The countries bordering Kenya are ..."
            if signal and m.start == signal.end and m.end < len(self.words) and self.words[m.end].key == "are":
                return m
        # "The capital of its neighbour Uganda": another announcement may stand before the name.
        passed = ARTICLES | {"its", "their"}
        announced = {i for s in self.signals if s.strong and s != signal for i in range(s.start, s.end)}
        for m in entities:
            before = m.start - 1
            while before >= 0 and (self.words[before].key in passed or before in announced):
                before -= 1
            linked = before >= 0 and self.words[before].key in OF - {"by", "to"}
            if not (signal and linked and signal.end <= m.start and before - signal.end <= 3):
                continue
            # "Its currency is the shilling of Uganda": what follows "is" is no subject.
            if not any(word.text in COPULAS for word in self.words[signal.end : before]):
                return m
        for m in entities:
            if self.words[m.end - 1].possessive:
                return m
        for m in entities:
            leading = all(self.words[i].key in ARTICLES | {"of"} for i in range(m.start))
            if leading and m.end < len(self.words) and self.words[m.end].key in VERBS | {"also"}:
                return m
        return None

    def polarity(self, values: list[Mention], trigger: int) -> tuple[list[Mention], bool]:
        """(the values that are asserted, False), or (the denied ones, True) if the clause only denies."""
        words = self.words
        nots = [
            i
            for i, w in enumerate(words)
            if w.key in NEGATIONS and not (i + 1 < len(words) and words[i + 1].key in {"only", "just"})
        ]
        if not nots:
            return values, False
        if nots[0] < trigger:
            return values, True
        asserted = [m for m in values if m.start < nots[0]]
        return (asserted, False) if asserted else (values, True)


def clauses(sentence: str, index: NameIndex) -> Iterator[Clause]:
    """The clauses of a sentence, in order. A relative clause comes with what it refers to as its subject."""
    words = tokens(sentence)
    mentions = index.mentions(words)
    inside = {i for m in mentions for i in range(m.start + 1, m.end)}
    cuts: list[int] = []
    for i in range(1, len(words)):
        if i not in inside and _starts_clause(words, mentions, i, index, cuts[-1] if cuts else 0):
            cuts.append(i)
    for start, end in zip([0, *cuts], [*cuts, len(words)], strict=True):
        part = words[start:end]
        first = part[0].key if part else ""
        at = words[start - (words[start - 1].key == "and")].start if start else 0
        before = [m for m in mentions if m.end <= start]
        entities = [m for m in before if m.named(ENTITY_SENSE)]
        if first == "whose" and entities:
            yield _clause(index, part[1:], at, tuple(entities[-1].named(ENTITY_SENSE)))
        elif first in _RELATIVES and before:
            antecedent = before[-1]
            yield _clause(index, [*words[antecedent.start : antecedent.end], *part[1:]], at)
        else:
            yield _clause(index, part[1:] if first in _SPLITTERS else part, at)


def _clause(index: NameIndex, words: list[Token], start: int, subject: tuple[str, ...] = ()) -> Clause:
    mentions = index.mentions(words)
    # A trigger inside a name ("New Zealand Sign Language") announces nothing.
    signals = [
        s
        for s in index.signals(words)
        if not any(m.start <= s.start and s.end <= m.end and m.end - m.start > s.end - s.start for m in mentions)
    ]
    return Clause(tuple(words), tuple(mentions), tuple(signals), start, subject)


def _starts_clause(words: list[Token], mentions: list[Mention], i: int, index: NameIndex, begun: int) -> bool:
    """Whether word `i` opens a clause; the previous clause opens with word `begun`."""
    word, before = words[i].key, words[i - 1]
    if ";" in before.gap or word in _SPLITTERS:
        return True
    if word in _RELATIVES:
        return "," in before.gap or word == "whose" or (word == "which" and before.key not in OF)
    if before.key != "and" and "," not in before.gap:
        return False
    if word == "and" or words[begun].key == "to":  # "To the south, it borders ..."
        return False
    if word in _AFTER_AND:
        ahead = words[i : i + 12]
        has_verb = any(token.key in VERBS for token in ahead)
        return has_verb and bool(any(s.strong for s in index.signals(ahead)) or word in {"it", "its", "has"})
    mention = next((m for m in mentions if m.start == i), None)
    if not any(token.key in VERBS for token in words[begun:i]):
        return False
    return bool(
        mention and mention.end < len(words) and (words[mention.end].key in VERBS or words[mention.end - 1].possessive)
    )
