"""What a sentence claims: (entity, kind of fact, values), read off a sentence without judging it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from maskdpo_ray.annotators.mentions import (
    ENTITY_SENSE,
    OTHER_SENSE,
    Mention,
    NameIndex,
    Signal,
    Token,
    key,
    tokens,
)
from maskdpo_ray.domains.table import ENTITY, NUMBER, WORDS, FactTable, Kind

_COPULAS = {"is", "are", "was", "were", "called", "named", "being", "remains", "as"}
_VERBS = _COPULAS | {"has", "have", "uses", "use", "borders", "border", "shares", "share", "lies", "speaks", "belongs"}
_OF = {"of", "in", "for", "to", "throughout", "by"}
_ARTICLES = {"the", "a", "an", "republic", "country", "nation", "state", "kingdom", "element"}
_PRONOUNS = {"its", "it", "the", "they", "their", "this", "that", "there", "he", "she", "his", "her", "these", "one",
             "some", "in", "a", "an", "which", "and", "also", "as", "is", "on", "at", "with"}
_NEGATIONS = {"not", "isnt", "never", "neither", "doesnt", "arent", "cannot", "dont", "wasnt", "except",
              "excluding"}
_OTHER_CAPITALS = {"former", "old", "ancient", "first", "historic", "historical", "colonial", "previous", "commercial",
                   "economic", "cultural", "financial", "provincial", "state", "regional", "maritime", "sea", "original"}
_DIRECT = {"the", "a", "an", "one", "of", "its", "their", "official", "sole", "only", "main", "primary", "national",
           "current", "and", "largest", "city", "also", "widely", "commonly", "mainly", "mostly", "primarily", "both", "two", "three"}
_SPLITTERS = {"but", "while", "whereas", "although", "though", "however"}
_RELATIVES = {"which", "who", "whose", "where"}
_AFTER_AND = {"its", "it", "the", "they", "has", "have", "is", "are", "uses", "also", "their", "there"}
_VAGUE = {"one", "also", "not", "located", "based", "used", "divided", "known", "considered", "spoken", "part", "very",
          "of", "in", "on", "at", "from", "to", "called", "written", "made", "that", "because", "very", "a", "often",
          "situated", "home", "named", "by", "unknown", "so", "an", "available", "derived", "similar", "most", "both",
          "more", "about", "around", "approximately", "typically", "usually", "primarily", "mainly", "equal", "where"}
_DETERMINERS = {"the", "a", "an", "called", "officially", "currently", "also", "its", "mainly", "primarily", "city",
                "known", "as", "now", "either", "both", "usually", "named"}
_LIGHT = {"the", "a", "an", "of", "in", "heart", "part", "parts", "region", "continent", "center", "centre", "coast",
          "side", "tip", "middle", "corner", "both", "and", "end", "edge", "north", "south", "east", "west", "northern",
          "southern", "eastern", "western", "central", "small", "landlocked", "large", "northeastern", "southwestern",
          "northwestern", "southeastern", "primarily", "mainly", "along", "on"}
_PREPOSITIONS = {"in", "with", "for", "from", "by", "that", "which", "to", "between"}
_WATERS = {"ocean", "sea", "gulf", "river", "lake", "mountains", "strait", "bay", "channel", "coast", "desert",
           "peninsula", "mount", "straits", "mountain", "range", "sahara", "himalayas", "andes", "rivers"}
_ORDINALS = {word: str(i) for i, word in enumerate(
    ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), start=1)}
_SUPERLATIVES = re.compile(
    r"\b(?!(?:\w*west|\w*east|rest|forest|nearest|interest|harvest|conquest|request|test|best-known)\b)\w{3,}est\b"
    r"|\bmost\b(?!\s+(?:of|widely|commonly))|\bonly\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Claim:
    """`values`: for each thing named, the table's names that it can stand for; empty for an unknown one."""

    kind: str
    subjects: tuple[str, ...]
    """Names of the entities that it may be about; empty: the one that the question is about."""
    values: tuple[frozenset[str], ...]
    said: str
    """The values as the sentence words them."""
    negated: bool = False
    hedged: bool = False
    """Beside a superlative, with no trigger: false if the value is, but not true because the value is."""
    foreign: str = ""
    """A named subject that is no entity of the table ("Ontario")."""


@dataclass(frozen=True, slots=True)
class _Clause:
    words: tuple[Token, ...]
    mentions: tuple[Mention, ...]
    signals: tuple[Signal, ...]
    subject: tuple[str, ...]


class ClaimReader:
    """Reads the claims of sentences over one table."""

    def __init__(self, table: FactTable) -> None:
        self._index = NameIndex(table)
        self._kinds = {kind.name: kind for kind in table.kinds}
        self._generic = {key(noun) for noun in table.generic}
        owners = (name for e in table.entities for name in (*e.adjectives, *(e.name, *e.aliases) * bool(e.adjectives)))
        self._owners = {tuple(token.key for token in tokens(name)) for name in owners}

    def read(self, sentence: str) -> list[Claim]:
        """All claims of kinds that the table knows, clause by clause."""
        return [claim for clause in self._clauses(sentence) for claim in self._claims(clause)]

    def mentions(self, sentence: str) -> list[Mention]:
        """The names of the table in a sentence."""
        return self._index.mentions(tokens(sentence))

    def signals(self, sentence: str) -> list[Signal]:
        """The triggers and cues in a sentence."""
        return self._index.signals(tokens(sentence))

    def _clause(self, words: list[Token], subject: tuple[str, ...] = ()) -> _Clause:
        mentions = self._index.mentions(words)
        # A trigger inside a name ("New Zealand Sign Language") announces nothing.
        signals = [s for s in self._index.signals(words) if not any(
            m.start <= s.start and s.end <= m.end and m.end - m.start > s.end - s.start for m in mentions)]
        return _Clause(tuple(words), tuple(mentions), tuple(signals), subject)

    def _clauses(self, sentence: str) -> Iterator[_Clause]:
        words = tokens(sentence)
        mentions = self._index.mentions(words)
        inside = {i for m in mentions for i in range(m.start + 1, m.end)}
        cuts = [i for i in range(1, len(words)) if i not in inside and self._starts_clause(words, mentions, i)]
        for start, end in zip([0, *cuts], [*cuts, len(words)]):
            part = words[start:end]
            first = part[0].key if part else ""
            before = [m for m in mentions if m.end <= start]
            entities = [m for m in before if m.named(ENTITY_SENSE)]
            if first == "whose" and entities:
                yield self._clause(part[1:], tuple(entities[-1].named(ENTITY_SENSE)))
            elif first in _RELATIVES and before:
                antecedent = before[-1]
                yield self._clause([*words[antecedent.start : antecedent.end], *part[1:]])
            else:
                yield self._clause(part[1:] if first in _SPLITTERS else part)

    def _starts_clause(self, words: list[Token], mentions: list[Mention], i: int) -> bool:
        word, before = words[i].key, words[i - 1]
        if ";" in before.gap or word in _SPLITTERS:
            return True
        if word in _RELATIVES:
            return "," in before.gap or word == "whose" or (word == "which" and before.key not in _OF)
        if before.key != "and" and "," not in before.gap:
            return False
        if word == "and":
            return False
        if word in _AFTER_AND:
            ahead = words[i : i + 12]
            has_verb = any(token.key in _VERBS for token in ahead)
            return has_verb and bool(any(s.strong for s in self._index.signals(ahead)) or word in {"it", "its", "has"})
        mention = next((m for m in mentions if m.start == i), None)
        if not any(token.key in _VERBS for token in words[:i]):
            return False
        return bool(mention and mention.end < len(words) and (
            words[mention.end].key in _VERBS or words[mention.end - 1].possessive))

    def _claims(self, clause: _Clause) -> Iterator[Claim]:
        text = " ".join(word.text for word in clause.words)
        used: set[int] = set()
        strong = [signal for signal in clause.signals if signal.strong]
        # "The official language is the Arabic language": a noun behind a value announces no second one.
        strong = [s for s in strong if s is strong[0] or not any(m.end == s.start and m.named(s.kind)
                                                                 for m in clause.mentions)]
        for number, signal in enumerate(strong):
            kind = self._kinds[signal.kind]
            other = signal.start > 0 and clause.words[signal.start - 1].key in _OTHER_CAPITALS
            if other or any(s.kind == signal.kind for s in strong[:number]):
                continue
            read = self._numbers if kind.shape == NUMBER else self._named
            if claim := read(clause, signal, kind, strong, used):
                yield claim
        weak = {s.kind for s in clause.signals if not s.strong} - {s.kind for s in strong}
        for kind in self._kinds.values():
            if kind.name not in weak or not self._predicates(clause, kind):
                continue
            cues = [s for s in clause.signals if s.kind == kind.name]
            near = [m for m in clause.mentions if m.named(kind.name) and m.start not in used
                    and any(self._cued(clause, m, s, kind) for s in cues)]
            subject, foreign = self._subject(clause, None, near)
            # A region that is itself the place spoken of ("Oceania" in "Australia is ...") is no value.
            near = [m for m in near if not m.named(ENTITY_SENSE) & set(subject)]
            if near:
                used |= {m.start for m in near}
                near, negated = _polarity(clause, near, near[0].start)
                yield Claim(
                    kind.name, subject, tuple(m.named(kind.name) for m in near), ", ".join(m.text for m in near),
                    negated, bool(_SUPERLATIVES.search(text)), foreign,
                )

    def _predicates(self, clause: _Clause, kind: Kind) -> bool:
        """Whether the clause speaks of an entity, or of a value of this kind, and not of some other thing: "Its
        economy is one of the ...", "The majority of African countries ..." place nothing in Africa."""
        words, first = clause.words, 0
        while first < len(words) - 1 and words[first].key in {"the", "republic", "of", "a", "an", "kingdom", "this"}:
            first += 1
        lead = next((m for m in clause.mentions if m.start <= first < m.end), None)
        if lead is not None:
            own = lead.named(ENTITY_SENSE) or lead.named(kind.name) and kind.shape == WORDS or lead.named("capital")
            return bool(own or lead.named(kind.name) and kind.cues == ("official",)) and not words[lead.end - 1].possessive
        word = words[first]
        if word.text[:1].isupper() and word.key not in _PRONOUNS and first == 0:
            return word.key in {"located", "situated", "nestled"} or bool(self._foreign(clause, None, []))
        return word.key in _VERBS | {"it", "which", "they", "located", "situated", "nestled"} | self._generic or (
            first > 0 and words[0].key in {"a", "an"})

    def _cued(self, clause: _Clause, mention: Mention, cue: Signal, kind: Kind) -> bool:
        """Whether a cue belongs to a mention: before it with nothing weighty between, or right after it."""
        if 0 <= cue.start - mention.end <= 1:
            return clause.words[cue.start].key not in _VERBS | _OF | _ARTICLES - self._generic
        between = clause.words[cue.end : mention.start]
        if mention.start < cue.end:
            return False
        if kind.shape == WORDS:
            return len(between) <= 8 and not any(word.key in _PREPOSITIONS for word in between)
        return all(word.key in _LIGHT for word in between)

    def _named(
        self, clause: _Clause, signal: Signal, kind: Kind, strong: list[Signal], used: set[int]
    ) -> Claim | None:
        sense = ENTITY_SENSE if kind.shape == ENTITY else kind.name
        mention = self._subject_mention(clause, signal)
        values = [m for m in clause.mentions if m.named(sense) and m is not mention and m.start not in used]
        unknown = self._unknown(clause, signal, kind)
        if kind.shape == ENTITY:
            subject, foreign = self._subject(clause, signal, [])
            after = [m for m in values if m.start >= signal.end]
            values = after or values
            unknown = unknown or ("" if values else self._no_entity(clause, signal))
        else:
            others = [s for s in strong if s.kind != kind.name]
            values = [m for m in values if not any(
                m.named(s.kind) and _distance(m, s) < _distance(m, signal) for s in others)]
            start, end = self._region(clause, signal)
            inside = [m for m in values if start <= m.start < end]
            anywhere = (start, end) == (0, len(clause.words))
            values = [m for m in inside if not anywhere or 0 <= m.start - signal.end <= 4]
            subject, foreign = self._subject(clause, signal, values)
        if values:
            used |= {m.start for m in values}
            values, negated = _polarity(clause, values, signal.start)
            names = tuple(self._unqualified(clause, m, kind, sense) for m in values)
            return Claim(kind.name, subject, names, ", ".join(m.text for m in values), negated, foreign=foreign)
        if not unknown:
            return None
        negated = any(word.key in _NEGATIONS for word in clause.words)
        return Claim(kind.name, subject, (frozenset(),), unknown, negated, foreign=foreign)

    def _unqualified(self, clause: _Clause, mention: Mention, kind: Kind, sense: str) -> frozenset[str]:
        """The names that a mention can stand for: none for the "franc" in "Tanzanian franc", as no name of a
        franc has that adjective (a known one would have been found as a whole)."""
        if kind.shape == WORDS and mention.end - mention.start == 1:
            before = [word.key for word in clause.words[max(0, mention.start - 3) : mention.start]]
            if any(tuple(before[-n:]) in self._owners for n in range(1, len(before) + 1)):
                return frozenset()
        return mention.named(sense)

    def _numbers(
        self, clause: _Clause, signal: Signal, kind: Kind, strong: list[Signal], used: set[int]
    ) -> Claim | None:
        stops = [s.start for s in strong if s.start >= signal.end]
        after = range(signal.end, min(len(clause.words), signal.end + 8, *stops) if stops else
                      min(len(clause.words), signal.end + 8))
        for i in [*after, *range(signal.start - 1, max(-1, signal.start - 3), -1)]:
            word = clause.words[i].key
            digits = re.fullmatch(r"(\d+)(?:st|nd|rd|th)?", word)
            number = digits.group(1) if digits else _ORDINALS.get(word)
            number = number or next((v.name for v in kind.lexicon if word in v.aliases), None)
            if number:
                subject, foreign = self._subject(clause, signal, [])
                negated = any(w.key in _NEGATIONS for w in clause.words)
                return Claim(kind.name, subject, (frozenset({number}),), number, negated, foreign=foreign)
        return None

    def _region(self, clause: _Clause, signal: Signal) -> tuple[int, int]:
        """Where the values stand: after "... is", or before "is the capital", or anywhere."""
        if (copula := self._copula_after(clause, signal)) is not None:
            return copula, len(clause.words)
        if (end := self._copula_before(clause, signal)) is not None:
            return 0, end
        if self._of_value(clause, signal):
            return signal.end + 1, len(clause.words)
        return 0, len(clause.words)

    def _of_value(self, clause: _Clause, signal: Signal) -> bool:
        """"... with its capital city of Kigali": "of" introduces the value, not the subject."""
        after = clause.words[signal.end + 1] if signal.end + 1 < len(clause.words) else None
        return bool(
            after and clause.words[signal.end].key == "of" and after.text[:1].isupper()
            and self._copula_after(clause, signal) is None and self._copula_before(clause, signal) is None
            and not any(m.start == signal.end + 1 and m.named(ENTITY_SENSE) for m in clause.mentions)
        )

    def _no_entity(self, clause: _Clause, signal: Signal) -> str:
        """What stands as a neighbour and is no entity of the table ("West Africa"); seas and rivers are skipped."""
        start = signal.end
        while start < len(clause.words) and clause.words[start].key in {"by", "with", "the", "on", "to", "of"}:
            start += 1
        mention = next((m for m in clause.mentions if m.start == start), None)
        if mention is None or mention.named(OTHER_SENSE) or mention.named(ENTITY_SENSE):
            return ""
        words = {word.key for word in clause.words[start : mention.end + 1]}
        return "" if words & _WATERS else mention.text

    def _copula_after(self, clause: _Clause, signal: Signal) -> int | None:
        if "," in clause.words[signal.end - 1].gap:  # "the currency, the sol, is ..."
            return signal.end
        for i in range(signal.end - 1, len(clause.words)):
            if i >= signal.end and clause.words[i].text in _COPULAS:  # "As" and "Is" may be symbols
                return i + 1
            if ":" in clause.words[i].gap or "=" in clause.words[i].gap:
                return i + 1
        return None

    def _copula_before(self, clause: _Clause, signal: Signal) -> int | None:
        for i in range(signal.start - 1, -1, -1):
            if clause.words[i].key in _COPULAS:
                return i
            if clause.words[i].key not in _DIRECT and not clause.words[i].possessive:
                return None
        return None

    def _unknown(self, clause: _Clause, signal: Signal, kind: Kind) -> str | None:
        """A value that the table has never heard of, where the grammar says that there is one."""
        copula = self._copula_after(clause, signal)
        if copula is None and self._of_value(clause, signal):
            copula = signal.end + 1
        if copula is not None:
            start = copula
            while start < len(clause.words) and clause.words[start].key in _DETERMINERS:
                start += 1
            end = start
            while end < len(clause.words) and end - start < 5:
                end += 1
                if end < len(clause.words) and (clause.words[end].key in {"and", "or", "with"} or re.search(
                        r"[,;:.()]", clause.words[end - 1].gap)):
                    break
            phrase = clause.words[start:end]
        else:
            before = self._copula_before(clause, signal)
            phrase = clause.words[: before or 0]
            if before is None or any(s.start < before for s in clause.signals if s.strong):
                return None
        if not phrase or phrase[0].key in _VAGUE | _PRONOUNS or len(phrase) > 5:
            return None
        named = phrase[0].text[:1].isupper()
        is_entity = any(m.named(ENTITY_SENSE) and m.start == clause.words.index(phrase[0]) for m in clause.mentions)
        if is_entity and kind.shape != ENTITY and copula is None:
            return None
        fits = named or (kind.shape == WORDS and copula is not None and len(phrase) <= 3)
        return " ".join(word.text for word in phrase) if fits else None

    def _subject_mention(self, clause: _Clause, signal: Signal | None) -> Mention | None:
        entities = [m for m in clause.mentions if m.named(ENTITY_SENSE)]
        for m in entities:
            before = m.start - 1
            while before >= 0 and clause.words[before].key in _ARTICLES:
                before -= 1
            linked = before >= 0 and clause.words[before].key in _OF - {"by", "to"}
            if signal and linked and signal.end <= m.start and before - signal.end <= 3:
                return m
        for m in entities:
            if clause.words[m.end - 1].possessive:
                return m
        for m in entities:
            leading = all(clause.words[i].key in _ARTICLES | {"of"} for i in range(m.start))
            if leading and m.end < len(clause.words) and clause.words[m.end].key in _VERBS | {"also"}:
                return m
        return None

    def _subject(
        self, clause: _Clause, signal: Signal | None, values: list[Mention]
    ) -> tuple[tuple[str, ...], str]:
        """(entities that the clause may be about, or the name of a subject that is none of the table's)."""
        if clause.subject:
            return clause.subject, ""
        mention = self._subject_mention(clause, signal)
        if mention is not None and mention not in values:
            return tuple(sorted(mention.named(ENTITY_SENSE))), ""
        return (), self._foreign(clause, signal, values)

    def _foreign(self, clause: _Clause, signal: Signal | None, values: list[Mention]) -> str:
        """A named subject that the table does not know: "Ontario" in "The capital of Ontario is Toronto"."""
        words = clause.words
        taken = {i for m in clause.mentions if m.named(ENTITY_SENSE) for i in range(m.start, m.end)}
        taken |= {i for m in values for i in range(m.start, m.end)}
        starts = []
        if signal and self._of_value(clause, signal):
            return ""
        if signal and signal.end < len(words) and words[signal.end].key in {"of", "in"}:
            starts.append(signal.end + 1)
            if signal.end + 1 < len(words) and words[signal.end + 1].key == "the":
                starts[-1] += 1
        elif signal is None:
            starts.append(0)
        for start in starts:
            end = start
            while end < len(words) and end not in taken and words[end].text[:1].isupper() and end - start < 4:
                end += 1
            name = words[start:end]
            verb_follows = end < len(words) and words[end].key in _VERBS
            if name and name[0].key not in _PRONOUNS | _ARTICLES and tuple(w.key for w in name) not in self._owners \
                    and (verb_follows or signal):
                return " ".join(word.text for word in name)
        return ""


def _polarity(clause: _Clause, values: list[Mention], trigger: int) -> tuple[list[Mention], bool]:
    """(the values that are asserted, False), or (the denied ones, True) if the clause only denies."""
    words = clause.words
    nots = [i for i, w in enumerate(words) if w.key in _NEGATIONS
            and not (i + 1 < len(words) and words[i + 1].key in {"only", "just"})]
    if not nots:
        return values, False
    if nots[0] < trigger:
        return values, True
    asserted = [m for m in values if m.start < nots[0]]
    return (asserted, False) if asserted else (values, True)


def _distance(mention: Mention, signal: Signal) -> int:
    """Words between; a value mostly follows its trigger, so one that precedes it counts as farther."""
    return mention.start - signal.end if mention.start >= signal.end else 2 * (signal.start - mention.end) + 3
