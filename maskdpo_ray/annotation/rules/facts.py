"""The `facts` annotator checks the sentences of an answer against a table of facts, `claims` their clauses.

Labels are ANAH-v2's four. Phrases to the reader ("Sure, please note that ...") are skipped and the rest is judged.
A sentence or clause is `contradictory` if one of its claims is false, `no_hallucination` if it has claims, all are
true, and no word is left that could claim more, `no_fact` if it claims nothing, else `unverifiable`.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.rules import idle
from maskdpo_ray.annotation.rules.claims import ClaimReader
from maskdpo_ray.annotation.rules.clauses import VERBS
from maskdpo_ray.annotation.rules.mentions import ENTITY_SENSE, Token, key, tokens
from maskdpo_ray.annotation.rules.readings import COMPASS, Claim, Reading, lies
from maskdpo_ray.data.domains import table_file
from maskdpo_ray.data.domains.table import ENTITY, Entity, FactTable, Kind, Value
from maskdpo_ray.errors import ConfigError, DataError, require, shown
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNVERIFIABLE,
    Annotation,
    Question,
    Rollout,
    Sentence,
)

_ALSO_KNOWN_AS = frozenset("also known called as or".split())
_LIST_MARK = re.compile(r"^\s*(?:[-*•#>]+(?!\d)|\(?\d{1,2}[.)](?=\s|$)|\(?[a-z][.)](?=\s))+\s*")
_BESIDE = frozenset("and the to in".split())
"""Words that an item of a list may hold beside its names: "Uganda to the west"."""
_HEADING = 4
"""Most words of a heading."""
_LISTED = 6
"""How many accepted values evidence text names."""
_LABELS = frozenset({NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE})


class _Domain:
    """A table made ready for checking."""

    def __init__(self, table: FactTable) -> None:
        self.entities: dict[str, Entity] = {entity.name: entity for entity in table.entities}
        self.kinds: dict[str, Kind] = {kind.name: kind for kind in table.kinds}
        self.reader = ClaimReader(table)
        self.generic = frozenset(key(noun) for noun in table.generic)
        self.generics = frozenset(form for noun in table.generic for form in (key(noun) + "s", _plural(key(noun))))
        self.plain = self.generic | self.generics | set(map(key, table.plain_words))
        owners = Counter(key(v.name) for e in table.entities for v in {v for vs in e.facts.values() for v in vs})
        self.of_one = frozenset(name for name, count in owners.items() if count == 1)
        """Values of one entity alone."""
        self.adjectives = {
            entity.name: {word.key for name in entity.adjectives for word in tokens(name)} for entity in table.entities
        }


class FactsAnnotator:
    """Checks answers against fact tables, the built-in ones and the user's own."""

    def __init__(
        self, tables: Mapping[str, FactTable | str] | None = None, confidence: Mapping[str, float] | None = None
    ) -> None:
        """Read tables.

        Args:
            tables: add to or replace the built-in ones by name; a text is the JSON file of a table.
            confidence: {label: 0 to 1} of every label that the rules give: their precision on labels of one's own, say
                (docs/annotators.md has ours). None: labels have no confidence.

        Raises ConfigError when one of them is no such mapping, DataError when a file holds no table.
        """
        if tables is not None and not isinstance(tables, Mapping):
            raise ConfigError(f"annotation.options.tables: expected {{name: file.json}}, got {shown(tables)}")
        is_valid = (
            isinstance(confidence, Mapping)
            and set(confidence) == _LABELS
            and all(type(c) in (int, float) and 0 <= c <= 1 for c in confidence.values())
        )
        expected = f"a number from 0 to 1 for each of {', '.join(sorted(_LABELS))}"
        require(confidence is None or is_valid, "annotation.options.confidence", expected, confidence)
        self._confidence = dict(confidence or {})
        self.gives_confidence = confidence is not None
        self._tables = {
            name: table if isinstance(table, FactTable) else table_file.read(table, name)
            for name, table in (tables or {}).items()
        }
        self._domains: dict[str, _Domain] = {}

    def check(self, question: Question) -> None:
        """Refuse a question that does not name its table and entity in `facts`, as in
        {"table": "countries", "entity": "Rwanda"}, or names one that there is not. Raises DataError.
        """
        self._topic(question)

    def start(self) -> None:
        """Nothing to load: tables are read when a question names them."""

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order. Raises DataError as `check` does."""
        return [self._answer(question, rollout) for question, rollout in items]

    def _answer(self, question: Question, rollout: Rollout) -> Annotation:
        domain, entity = self._topic(question)
        spans = sentences.split(rollout.text, question.language)
        labelled: list[Sentence] = []
        heading = ""
        for start, end in spans:
            body = _body(rollout.text[start:end])
            if _is_item(domain, entity, body):
                # Under "Its neighbours are:" an item is a claim; under nothing, it is a name without one.
                read = domain.reader.read(f"{heading}: {body}") if heading else ()
                label, evidence, kind = _verdict(domain, entity, body, read, item=True)
                labelled.append(Sentence(start, end, label, self._confidence.get(label), evidence, kind))
                continue
            found = list(self._spans(domain, entity, rollout.text, start, end))
            labelled += found
            announces = all(span.label == NO_FACT for span in found) and domain.reader.announces(body)
            heading = re.sub(r"[\W_]+$", "", body) if announces else ""
        return Annotation(rollout.question_id, rollout.sample, tuple(labelled))

    def _spans(self, domain: _Domain, topic: Entity, text: str, start: int, end: int) -> Iterator[Sentence]:
        """The labelled spans of the sentence `text[start:end]`: it alone."""
        body = _body(text[start:end])
        label, evidence, kind = _verdict(domain, topic, body, domain.reader.read(body))
        yield Sentence(start, end, label, self._confidence.get(label), evidence, kind)

    def _topic(self, question: Question) -> tuple[_Domain, Entity]:
        facts = question.facts or {}
        where, table, entity = f"question {question.id!r}: facts", facts.get("table"), facts.get("entity")
        if not isinstance(table, str) or not isinstance(entity, str):
            expected = '{"table": ..., "entity": ...} for the facts annotator'
            raise DataError(f"{where}: expected {expected}, got {shown(question.facts)}")
        domain = self._domain(table, where)
        if entity not in domain.entities:
            near = difflib.get_close_matches(entity, domain.entities, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{where}.entity: expected an entity of the table {table}, got {shown(entity)}{hint}")
        return domain, domain.entities[entity]

    def _domain(self, name: str, where: str) -> _Domain:
        if name not in self._domains:
            table = self._tables.get(name) or _built_in(name)
            if table is None:
                known = sorted({"countries", "elements", *self._tables})
                raise DataError(f"{where}.table: expected one of {', '.join(known)}, got {shown(name)}")
            self._domains[name] = _Domain(table)
        return self._domains[name]


class ClaimsByRules(FactsAnnotator):
    """FactsAnnotator clause by clause: a wrong clause leaves the right ones beside it their label."""

    def __init__(
        self,
        tables: Mapping[str, FactTable | str] | None = None,
        confidence: Mapping[str, float] | None = None,
        judge: None = None,
        judge_options: Any = None,
    ) -> None:
        """Raises ConfigError as FactsAnnotator does, and for options of a judge without one."""
        super().__init__(tables, confidence)
        if judge_options is not None:
            raise ConfigError(
                f"annotation.options.judge: expected one, as there are judge_options, got {shown(judge)}; "
                "`claims` is by rules without a judge"
            )

    def _spans(self, domain: _Domain, topic: Entity, text: str, start: int, end: int) -> Iterator[Sentence]:
        """Clauses of a sentence. One that claims nothing ("Rwanda, which ...") is part of the next, if there is one."""
        body = _body(text[start:end])
        offset = end - len(body)
        read = domain.reader.read(body)
        stops = [*(reading.start for reading in read[1:]), len(body)]
        begun, readings = 0, []
        for reading, stop in zip(read, stops, strict=True):
            readings.append(reading)
            clause = body[begun:stop].rstrip()
            goes_on = stop < len(body)
            # Judged as if the sentence ended with it.
            judged = f"{clause.rstrip(',;')}." if goes_on else clause
            label, evidence, kind = _verdict(domain, topic, judged, readings)
            if not (goes_on and label == NO_FACT):
                first = offset + begun if begun else start  # a list mark goes with the first clause
                stop_at, confidence = offset + begun + len(clause), self._confidence.get(label)
                yield Sentence(first, stop_at, label, confidence, evidence, kind)
                begun, readings = stop, []


def _plural(noun: str) -> str:
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in set("aeiou") else noun + "s"


def _body(sentence: str) -> str:
    """The judged part of a sentence: all after list markers and phrases to the reader."""
    body = _LIST_MARK.sub("", sentence).strip()
    return body[idle.opening(body) :]


def _built_in(name: str) -> FactTable | None:
    if name == "countries":
        from maskdpo_ray.data.domains import countries

        return countries.table()
    if name == "elements":
        from maskdpo_ray.data.domains import elements

        return elements.table()
    return None


def _is_item(domain: _Domain, topic: Entity, text: str) -> bool:
    """Whether a line holds a number or names alone, and not the topic's alone: an item of a list."""
    words = tokens(text)
    mentions = domain.reader.mentions(text)
    named = {i for m in mentions for i in range(m.start, m.end)}
    if all(topic.name in m.named(ENTITY_SENSE) for m in mentions):
        return len(words) == 1 and words[0].key.isdecimal()
    return all(i in named or word.key in COMPASS or word.key in _BESIDE for i, word in enumerate(words))


def _verdict(
    domain: _Domain, topic: Entity, text: str, read: Sequence[Reading], item: bool = False
) -> tuple[str, str, str | None]:
    """(label, evidence, kind of fact or None) of a sentence or clause of an answer about `topic`.

    `item`: `text` is an item of a list, and `read` are the clauses of its heading and it.
    """
    checked = [_check(domain, topic, claim) for reading in read for claim in reading.claims]
    for truth, evidence, kind in checked:
        if truth is False:
            return CONTRADICTORY, evidence, kind
    rest = _rest(domain, topic, read)
    if checked and not rest and all(truth for truth, _, _ in checked):
        return NO_HALLUCINATION, *checked[0][1:]
    if not checked and not rest and _is_generic(domain, topic, read):
        return NO_HALLUCINATION, f"{topic.name} is one of the table's entities", None
    if not item and not any(truth for truth, _, _ in checked) and (reason := _claims_nothing(domain, topic, text)):
        return NO_FACT, reason, None
    for truth, evidence, kind in checked:
        if truth is None:
            return UNVERIFIABLE, evidence, kind
    if rest:
        return UNVERIFIABLE, f"not checked: {' '.join(word.text for word in rest[:_LISTED])}", None
    return UNVERIFIABLE, f"states no fact of {topic.name} that the table holds", None


def _rest(domain: _Domain, topic: Entity, read: Sequence[Reading]) -> list[Token]:
    """Words that no claim was read from and that are neither harmless nor the topic's name."""
    taken: set[int] = set()
    named: set[int] = set()
    subjects, foreign = {topic.name}, set()
    for claim in (claim for reading in read for claim in reading.claims):
        taken |= claim.taken
        subjects.update(claim.subjects)
        foreign.add(claim.foreign)
    for reading in read:
        for mention in reading.mentions:
            if subjects & mention.named(ENTITY_SENSE) or mention.text in foreign:
                named |= {word.start for word in reading.words[mention.start : mention.end]}
        for one, other in pairwise(reading.mentions):
            between = reading.words[one.end : other.start]
            if set(one.senses) & set(other.senses) and all(word.key in _ALSO_KNOWN_AS for word in between):
                named |= {word.start for word in between}
    adjectives = domain.adjectives[topic.name]
    return [
        word
        for reading in read
        for i, word in enumerate(reading.words)
        if word.start not in taken | named
        and word.key not in adjectives
        and not (word.key in domain.plain and _describes_topic(domain, reading, i, named))
        and not idle.idle(reading.words, i, taken)
    ]


def _describes_topic(domain: _Domain, reading: Reading, i: int, named: set[int]) -> bool:
    """Whether a word that holds of every entity speaks of the topic: not so "countries" as a subject, "an element
    is ...", nor what stands in apposition to something else ("the capital, a country, ...").
    """
    words, word = reading.words, reading.words[i].key
    if word in domain.generics:
        about_others = any(domain.kinds[claim.kind].shape == ENTITY for claim in reading.claims)
        return about_others or [w.key for w in words[max(0, i - 6) : i] if w.key in {"one", "of"}][:2] == ["one", "of"]
    if word not in domain.generic:
        return True
    first = i
    while first and (words[first - 1].key in {"a", "an", "the"} or words[first - 1].key in domain.plain):
        first -= 1
    ends = i + 1 == len(words) or bool(re.match(r"[\s*_]*[,.;!]", words[i].gap))
    if first and "," in words[first - 1].gap and ends:
        return words[first - 1].start in named
    any_one = first < i and words[first].key in {"a", "an"} and i + 1 < len(words) and words[i + 1].key in VERBS
    return not (any_one and first == 0)


def _is_generic(domain: _Domain, topic: Entity, read: Sequence[Reading]) -> bool:
    """Whether the sentence only says that the topic is one of its kind: "Argon is a chemical element"."""
    words = [word.key for reading in read for word in reading.words]
    names = [mention for reading in read for mention in reading.mentions]
    about = words[:1] == ["it"] or bool(names and names[0].start <= 1 and topic.name in names[0].named(ENTITY_SENSE))
    return (
        about
        and bool({"is", "are"} & set(words))
        and bool({"a", "an", "one"} & set(words))
        and bool(domain.generic & set(words))
    )


def _check(domain: _Domain, topic: Entity, claim: Claim) -> tuple[bool | None, str, str]:
    """(true, false or None: cannot be judged; evidence; kind)."""
    kind = domain.kinds[claim.kind]
    if claim.foreign and not _is_part(domain, topic, kind, claim.foreign):
        return None, f"speaks of {claim.foreign}, which is not in the table", kind.name
    names = claim.subjects or (topic.name,)
    subjects = [topic] if topic.name in names else [domain.entities[name] for name in names]
    best: tuple[bool | None, str, str] | None = None
    for subject in subjects:
        truth, evidence = _compare(kind, subject, claim)
        if truth and not _lie_there(domain, subject, claim):
            truth, evidence = None, f"{evidence}, in directions that the table does not confirm"
        if best is None or truth:
            best = (truth, evidence, kind.name)
    assert best is not None
    return best


def _lie_there(domain: _Domain, subject: Entity, claim: Claim) -> bool:
    """Whether each value lies where the claim says, measured between centres: within 75 degrees of one named
    direction and within 90 of all.
    """
    for value, named in zip(claim.values, claim.directions, strict=False):
        if named and not any(lies(subject.place, domain.entities[name].place, named) for name in value):
            return False
    return True


def _is_part(domain: _Domain, topic: Entity, kind: Kind, name: str) -> bool:
    """Whether what holds for the topic holds for this: its capital is where it is, but borders nothing.

    Nothing follows about what it shares with others: its continent.
    """
    own = {key(spelling) for values in topic.facts.values() for v in values for spelling in (v.name, *v.aliases)}
    itself = {key(value.name) for value in topic.facts.get(kind.name, ())}
    return kind.shape != ENTITY and key(name) in (own - itself) & domain.of_one


def _compare(kind: Kind, subject: Entity, claim: Claim) -> tuple[bool | None, str]:
    accepted = subject.facts.get(kind.name, ())
    if not accepted:
        return None, f"{kind.label} of {subject.name}: not in the table; the sentence says {claim.said}"
    listed = ", ".join(value.name for value in accepted[:_LISTED]) + (", ..." if len(accepted) > _LISTED else "")
    evidence = f"{kind.label} of {subject.name}: {listed}; the sentence says {'not ' * claim.negated}{claim.said}"
    names = {value.name for value in accepted}
    values = claim.values
    if kind.shape == ENTITY:  # "on the Rwandan border", "a neighbour of Rwanda": the subject is no value
        values = tuple(value for value in values if subject.name not in value)
        if not values:
            return None, f"names no {kind.label} of {subject.name}"
    right = [bool(names & value) for value in values]
    if claim.negated:
        if all(right):
            return False, evidence
        return (True if kind.closed_world and len(right) == 1 and not any(right) else None), evidence
    if all(right):
        if len(values) < len(claim.values) or claim.repeats:
            return None, f"{evidence}, one of which is no value or told twice"
        if claim.count is None or claim.count == _counted(accepted, values, claim.count == 0):
            return True, evidence
        # Other kinds may list a value under two names, so their number is unknown.
        is_known = kind.shape == ENTITY and kind.closed_world and claim.count in (0, len(values))
        return (False if is_known else None), evidence
    return (False if kind.closed_world else None), evidence


def _counted(accepted: Sequence[Value], values: Sequence[frozenset[str]], only: bool) -> int | None:
    """Number of values, if `values` are all of them; 0 with `only`."""
    names = [frozenset(word.key for word in tokens(value.name)) for value in accepted]
    # "Swiss German" is not another language besides German, nor "Washington, D.C." another capital.
    distinct = [name for name in names if not any(other < name for other in names)]
    number = len({frozenset(value) for value in values})
    return (0 if only else number) if number == len(distinct) else None


def _claims_nothing(domain: _Domain, topic: Entity, text: str) -> str | None:
    """The reason why a sentence without a judged claim claims nothing at all, or None if it may claim something."""
    words = tokens(text)
    if not words:
        return "nothing but a phrase to the reader"
    mentions = domain.reader.mentions(text)
    named = {i for m in mentions if topic.name in m.named(ENTITY_SENSE) for i in range(m.start, m.end)}
    named |= {i for s in domain.reader.signals(text) if s.strong for i in range(s.start, s.end)}
    # "I hope this helps! 😊": the words are all that such a sentence says.
    if (spoken := [word for word in words if word.text[0].isalnum()]) == words[: len(spoken)] and (
        reason := idle.asks_or_offers(spoken, named, domain.plain)
    ):
        return reason
    short = idle.stops_short(words, named, domain.plain)
    if short and text.rstrip("*_ ").endswith(":"):
        return "a heading"
    if len(words) <= _HEADING and len(named) == len(words) and len(mentions) <= 1:
        return "a name or heading, no claim"
    if short and not re.search(r"[.!?]\W*$", text):
        return "breaks off before it claims anything"
    return None
