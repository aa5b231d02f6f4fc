"""Claims of a sentence: (entity, kind of fact, values), extracted without judging them.

A claim records the words that it was read from (`taken`), so that a judge can tell what else the sentence says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from maskdpo_ray.annotation.rules import readings
from maskdpo_ray.annotation.rules.clauses import ARTICLES, NEGATIONS, OF, VERBS, Clause, clauses
from maskdpo_ray.annotation.rules.mentions import ENTITY_SENSE, OTHER_SENSE, Mention, NameIndex, Signal, key, tokens
from maskdpo_ray.annotation.rules.readings import Claim, Reading
from maskdpo_ray.data.domains.table import ENTITY, NUMBER, WORDS, FactTable, Kind

_PRONOUNS = frozenset(
    (
        "its it the they their this that there he she his her these one some in a an which and also as is on at with"
    ).split()
)
_VAGUE = frozenset(
    (
        "one also not located based used divided known considered spoken part very of in on at from to "
        "called written made that because a often situated home named by unknown so an available derived "
        "what which who why how similar most both more about around approximately typically usually primarily mainly "
        "equal where"
    ).split()
)
_DETERMINERS = frozenset(
    (
        "the a an called officially currently also its mainly primarily city known as now either both usually named"
    ).split()
)
_LIGHT = frozenset(
    (
        "the a an of in heart part parts region continent center centre coast side tip middle corner both "
        "and end edge north south east west northern southern eastern western central small landlocked "
        "large northeastern southwestern northwestern southeastern primarily mainly along on"
    ).split()
)
_PREPOSITIONS = frozenset("in with for from by that which to between".split())
_ORDINALS = {
    word: str(number)
    for number, word in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth".split(), start=1)
}


class ClaimReader:
    """Reads the claims of sentences over one table."""

    def __init__(self, table: FactTable) -> None:
        self._index = NameIndex(table)
        self._kinds = {kind.name: kind for kind in table.kinds}
        self._other_nouns = frozenset(table.other_nouns)
        self._generic = {key(noun) for noun in table.generic}
        owners = (name for e in table.entities for name in (*e.adjectives, *(e.name, *e.aliases) * bool(e.adjectives)))
        self._owners = {tuple(token.key for token in tokens(name)) for name in owners}

    def read(self, sentence: str) -> list[Reading]:
        """The clauses of a sentence, in order, each with its claims of the table's kinds."""
        return [
            Reading(clause.start, tuple(self._claims(clause)), clause.words, clause.mentions)
            for clause in clauses(sentence, self._index)
        ]

    def mentions(self, sentence: str) -> list[Mention]:
        """The names of the table in a sentence."""
        return self._index.mentions(tokens(sentence))

    def signals(self, sentence: str) -> list[Signal]:
        """The triggers and cues in a sentence."""
        return self._index.signals(tokens(sentence))

    def announces(self, sentence: str) -> bool:
        """Whether a sentence has words that announce a fact."""
        return any(signal.strong for signal in self.signals(sentence))

    def _claims(self, clause: Clause) -> Iterator[Claim]:
        used: set[tuple[int, str]] = set()
        strong = [signal for signal in clause.signals if signal.strong]
        # "The official language is the Arabic language": a noun after a value announces no second one.
        strong = [
            s
            for s in strong
            if s is strong[0] or not any(m.end == s.start and m.named(s.kind) for m in clause.mentions)
        ]
        for number, signal in enumerate(strong):
            kind = self._kinds[signal.kind]
            other = signal.start > 0 and clause.words[signal.start - 1].key in kind.unless_after
            if other or any(s.kind == signal.kind for s in strong[:number]):
                continue
            read = self._numbers if kind.shape == NUMBER else self._named
            if claim := read(clause, signal, kind, strong, used):
                yield readings.with_count(clause, signal, claim)
        weak = {s.kind for s in clause.signals if not s.strong} - {s.kind for s in strong}
        for kind in self._kinds.values():
            if kind.name not in weak:
                continue
            cues = [s for s in clause.signals if s.kind == kind.name]
            near = [
                m
                for m in clause.mentions
                if m.named(kind.name)
                and (m.start, kind.name) not in used
                and any(self._cued(clause, m, s, kind) for s in cues)
            ]
            if not self._predicates(clause, kind, near):
                continue
            near = readings.listed(clause, near, kind.name)
            subject, foreign = self._subject(clause, None, near)
            # A region that is itself the place spoken of ("Oceania" in "Australia is ...") is no value.
            near = [m for m in near if not m.named(ENTITY_SENSE) & set(subject)]
            near = [m for m in near if not clause.words[m.end - 1].possessive]  # "is Africa's capital"
            if near:
                used |= {(m.start, name) for m in near for name in self._kinds}
                near, negated = clause.polarity(near, near[0].start)
                yield Claim(
                    kind.name,
                    subject,
                    tuple(m.named(kind.name) for m in near),
                    ", ".join(m.text for m in near),
                    negated,
                    foreign,
                    taken=readings.taken(clause, kind, near, negated),
                )

    def _predicates(self, clause: Clause, kind: Kind, near: list[Mention]) -> bool:
        """Whether the clause speaks of an entity, or of a value of this kind, and of no other thing: "Its
        economy is one of the ...", "The majority of African countries ..." place nothing in Africa."""
        words, first = clause.words, 0
        while first < len(words) - 1 and words[first].key in {"the", "republic", "of", "a", "an", "kingdom", "this"}:
            first += 1
        lead = next((m for m in clause.mentions if m.start <= first < m.end), None)
        if lead is not None:
            # A value of this kind leads only where it is the claim itself: "The euro is used in ..."
            own = lead in near or any(sense not in {kind.name, OTHER_SENSE} for sense, _ in lead.senses)
            return own and not words[lead.end - 1].possessive
        word = words[first]
        if word.text[:1].isupper() and word.key not in _PRONOUNS and first == 0:
            return word.key in {"located", "situated", "nestled"} or bool(self._foreign(clause, None, []))
        return word.key in VERBS | {"it", "which", "they", "located", "situated", "nestled"} | self._generic or (
            first > 0 and words[0].key in {"a", "an"}
        )

    def _cued(self, clause: Clause, mention: Mention, cue: Signal, kind: Kind) -> bool:
        """Whether a cue belongs to a mention: before it with nothing weighty between, or right after it."""
        if 0 <= cue.start - mention.end <= 1:
            return clause.words[cue.start].key not in VERBS | OF | ARTICLES - self._generic
        between = clause.words[cue.end : mention.start]
        if mention.start < cue.end:
            return False
        if kind.shape == WORDS:
            return len(between) <= 8 and not any(word.key in _PREPOSITIONS for word in between)
        return all(word.key in _LIGHT for word in between)

    def _named(
        self, clause: Clause, signal: Signal, kind: Kind, strong: list[Signal], used: set[tuple[int, str]]
    ) -> Claim | None:
        sense = ENTITY_SENSE if kind.shape == ENTITY else kind.name
        mention = clause.subject_mention(signal)
        values = [
            m for m in clause.mentions if m.named(sense) and m is not mention and (m.start, kind.name) not in used
        ]
        unknown = self._unknown(clause, signal, kind)
        shared: list[Signal] = []
        if kind.shape == ENTITY:
            subject, foreign = self._subject(clause, signal, [])
            after = [m for m in values if m.start >= signal.end]
            values = after or values
            unknown = unknown or ("" if values else self._no_entity(clause, signal))
        else:
            start, end = clause.region(signal)
            anywhere = (start, end) == (0, len(clause.words))
            # "The official language spoken in Kenya is ..." says both of the same values.
            shared = [s for s in strong if not anywhere and clause.region(s) == (start, end)]
            others = [s for s in strong if s.kind != kind.name and s not in shared]
            values = [
                m for m in values if not any(m.named(s.kind) and _distance(m, s) < _distance(m, signal) for s in others)
            ]
            inside = [m for m in values if start <= m.start < end]
            values = [m for m in inside if not anywhere or 0 <= m.start - signal.end <= 4]
            values = readings.listed(clause, values, sense)
            subject, foreign = self._subject(clause, signal, values)
        if values:
            still_to_say = {s.kind for s in shared} - {kind.name}
            used |= {(m.start, name) for m in values for name in self._kinds.keys() - still_to_say}
            values, negated = clause.polarity(values, signal.start)
            names = tuple(self._unqualified(clause, m, kind, sense) for m in values)
            said = ", ".join(m.text for m in values)
            claim = Claim(kind.name, subject, names, said, negated, foreign)
            repeats = len({key(m.text) for m in values}) < len(values)
            claim = replace(claim, repeats=repeats, taken=readings.taken(clause, kind, values, negated))
            return readings.with_directions(clause, signal, values, claim) if kind.shape == ENTITY else claim
        if not unknown:
            return None
        negated = any(word.key in NEGATIONS for word in clause.words)
        return Claim(kind.name, subject, (frozenset(),), unknown, negated, foreign=foreign)

    def _unqualified(self, clause: Clause, mention: Mention, kind: Kind, sense: str) -> frozenset[str]:
        """The names that a mention can stand for: none for the "franc" in "Tanzanian franc", as no name of a
        franc has that adjective (a known one would have been found as a whole)."""
        if kind.shape == WORDS and mention.end - mention.start == 1:
            before = [word.key for word in clause.words[max(0, mention.start - 3) : mention.start]]
            if any(tuple(before[-n:]) in self._owners for n in range(1, len(before) + 1)):
                return frozenset()
        return mention.named(sense)

    def _numbers(
        self, clause: Clause, signal: Signal, kind: Kind, strong: list[Signal], used: set[tuple[int, str]]
    ) -> Claim | None:
        stops = [s.start for s in strong if s.start >= signal.end]
        after = range(
            signal.end,
            min(len(clause.words), signal.end + 8, *stops) if stops else min(len(clause.words), signal.end + 8),
        )
        for i in [*after, *range(signal.start - 1, max(-1, signal.start - 3), -1)]:
            word = clause.words[i].key
            # "The 2nd period", but no "period 2nd".
            digits = re.fullmatch(r"(\d+)(?:st|nd|rd|th)?" if i < signal.start else r"(\d+)", word)
            number = digits.group(1) if digits else _ORDINALS.get(word)
            number = number or next((v.name for v in kind.lexicon if word in v.aliases), None)
            if number:
                subject, foreign = self._subject(clause, signal, [])
                negated = any(w.key in NEGATIONS for w in clause.words)
                taken = readings.taken(clause, kind, [], negated) | {clause.words[i].start}
                return Claim(kind.name, subject, (frozenset({number}),), number, negated, foreign, taken=taken)
        return None

    def _no_entity(self, clause: Clause, signal: Signal) -> str:
        """Name that stands as a neighbour and is no entity of the table ("West Africa"); no sea or river."""
        start = signal.end
        while start < len(clause.words) and clause.words[start].key in {"by", "with", "the", "on", "to", "of"}:
            start += 1
        mention = next((m for m in clause.mentions if m.start == start), None)
        if mention is None or mention.named(OTHER_SENSE) or mention.named(ENTITY_SENSE):
            return ""
        words = {word.key for word in clause.words[start : mention.end + 1]}
        return "" if words & self._other_nouns else mention.text

    def _unknown(self, clause: Clause, signal: Signal, kind: Kind) -> str | None:
        """A value that the table has never heard of, where the grammar says that there is one."""
        copula = clause.copula_after(signal)
        if copula is None and clause.introduces_with_of(signal):
            copula = signal.end + 1
        if copula is not None:
            start = copula
            while start < len(clause.words) and clause.words[start].key in _DETERMINERS:
                start += 1
            end = start
            while end < len(clause.words) and end - start < 5:
                end += 1
                if end < len(clause.words) and (
                    clause.words[end].key in {"and", "or", "with"} or re.search(r"[,;:.()]", clause.words[end - 1].gap)
                ):
                    break
            phrase = clause.words[start:end]
        else:
            before = clause.copula_before(signal)
            phrase = clause.words[: before or 0]
            if before is None or any(s.start < before for s in clause.signals if s.strong):
                return None
        if not phrase or phrase[0].key in _VAGUE | _PRONOUNS or len(phrase) > 5:
            return None
        named = phrase[0].text[:1].isupper()
        is_entity = any(m.named(ENTITY_SENSE) and m.start == clause.words.index(phrase[0]) for m in clause.mentions)
        if is_entity and copula is None:
            return None
        # "is the riga" names something, "is strong" describes.
        called = copula is not None and (start > copula or clause.words[copula - 1].text not in VERBS)
        fits = named or (kind.shape == WORDS and called and len(phrase) <= 3)
        return " ".join(word.text for word in phrase) if fits else None

    def _subject(self, clause: Clause, signal: Signal | None, values: list[Mention]) -> tuple[tuple[str, ...], str]:
        """(entities that the clause may be about, or the name of a subject that is none of the table's)."""
        if clause.subject:
            return clause.subject, ""
        mention = clause.subject_mention(signal)
        if mention is not None and mention not in values:
            return tuple(sorted(mention.named(ENTITY_SENSE))), ""
        if signal and self._kinds[signal.kind].shape == ENTITY:  # "The capital, Nairobi, borders Uganda"
            for m in clause.mentions:
                leads = m.start == 0 or clause.words[m.start - 1].key not in OF
                if (
                    m.end == signal.start
                    and leads
                    and not any(o.named(ENTITY_SENSE) for o in clause.mentions if o.start < m.end)
                ):
                    return (), m.text
        return (), self._foreign(clause, signal, values)

    def _foreign(self, clause: Clause, signal: Signal | None, values: list[Mention]) -> str:
        """A named subject that the table does not know: "Ontario" in "The capital of Ontario is Toronto"."""
        words = clause.words
        taken = {i for m in clause.mentions if m.named(ENTITY_SENSE) for i in range(m.start, m.end)}
        taken |= {i for m in values for i in range(m.start, m.end)}
        starts = []
        if signal and clause.introduces_with_of(signal):
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
            verb_follows = end < len(words) and words[end].key in VERBS
            if (
                name
                and name[0].key not in _PRONOUNS | ARTICLES
                and tuple(w.key for w in name) not in self._owners
                and (verb_follows or signal)
            ):
                return " ".join(word.text for word in name)
        return ""


def _distance(mention: Mention, signal: Signal) -> int:
    """Words between; a value mostly follows its trigger, so one that precedes it counts as farther."""
    return mention.start - signal.end if mention.start >= signal.end else 2 * (signal.start - mention.end) + 3
