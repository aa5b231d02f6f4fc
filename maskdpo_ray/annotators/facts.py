"""The `facts` annotator checks the sentences of an answer against a table of facts, `claims` their clauses.

Labels are ANAH-v2's four. A sentence or clause is `contradictory` if one of its claims is false, `no_hallucination`
if at least one claim could be checked and none is false, `no_fact` if it claims nothing, else `unverifiable`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maskdpo_ray import sentences
from maskdpo_ray.annotators.claims import Claim, ClaimReader
from maskdpo_ray.annotators.mentions import ENTITY_SENSE, key, tokens
from maskdpo_ray.domains import table_file
from maskdpo_ray.domains.table import ENTITY, Entity, FactTable, Kind
from maskdpo_ray.errors import ConfigError, DataError, shown
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

_META = re.compile(
    r"^(?:sure|certainly|of course|absolutely|great|hello|hi|hey|thanks?|thank you|okay|ok|yes|no|"
    r"here (?:are|is)|here's|let me|i hope|i can|i'm|i am|please|feel free|as an ai|sorry|"
    r"below (?:are|is)|the following|these are|"
    r"five (?:short )?facts|you're welcome|if you|would you|do you)\b",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•#>]+|\(?\d{1,2}[.)](?=\s|$)|\(?[a-z][.)](?=\s))+\s*")
_LISTED = 6
"""How many accepted values evidence text names."""


class _Domain:
    """A table made ready for checking."""

    def __init__(self, table: FactTable) -> None:
        self.entities: dict[str, Entity] = {entity.name: entity for entity in table.entities}
        self.kinds: dict[str, Kind] = {kind.name: kind for kind in table.kinds}
        self.reader = ClaimReader(table)
        self.generic = (
            re.compile(
                r"(?:is|are) (?:an?|the name of an?) (?:chemical )?"
                rf"(?:{'|'.join(map(re.escape, table.generic))})[.!]?$",
                re.IGNORECASE,
            )
            if table.generic
            else None
        )


class FactsAnnotator:
    """Checks answers against fact tables, the built-in ones and the user's own."""

    def __init__(self, tables: Mapping[str, FactTable | str] | None = None) -> None:
        """`tables` adds to or replaces the built-in ones by name; a text is the JSON file of a table.

        Raises ConfigError when it is no mapping, DataError when a file holds no table.
        """
        if tables is not None and not isinstance(tables, Mapping):
            raise ConfigError(f"annotation.options.tables: expected {{name: file.json}}, got {shown(tables)}")
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
        labelled = [span for start, end in spans for span in self._spans(domain, entity, rollout.text, start, end)]
        return Annotation(rollout.question_id, rollout.sample, tuple(labelled))

    def _spans(self, domain: _Domain, topic: Entity, text: str, start: int, end: int) -> Iterator[Sentence]:
        """The labelled spans of the sentence `text[start:end]`: it alone."""
        body = _LIST_MARK.sub("", text[start:end]).strip()
        claims = [claim for _, found in domain.reader.read(body) for claim in found]
        label, evidence, kind = _verdict(domain, topic, body, claims)
        yield Sentence(start, end, label, None, evidence, kind)

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
    """As FactsAnnotator, clause by clause: a wrong clause leaves the right ones beside it their label."""

    def __init__(
        self, tables: Mapping[str, FactTable | str] | None = None, judge: None = None, judge_options: Any = None
    ) -> None:
        """Raises ConfigError as FactsAnnotator does, and for options of a judge without one."""
        super().__init__(tables)
        if judge_options is not None:
            raise ConfigError(
                f"annotation.options.judge: expected one, as there are judge_options, got {shown(judge)}; "
                "`claims` is by rules without a judge"
            )

    def _spans(self, domain: _Domain, topic: Entity, text: str, start: int, end: int) -> Iterator[Sentence]:
        """Its clauses. One that claims nothing ("Rwanda, which ...") is part of the next, if there is one."""
        body = _LIST_MARK.sub("", text[start:end]).strip()
        offset = end - len(body)
        read = domain.reader.read(body)
        stops = [*(first for first, _ in read[1:]), len(body)]
        begun, claims = 0, []
        for (_, found), stop in zip(read, stops, strict=True):
            claims += found
            clause = body[begun:stop].rstrip()
            goes_on = stop < len(body)
            # Judged as if the sentence ended with it.
            judged = f"{clause.rstrip(',;')}." if goes_on else clause
            label, evidence, kind = _verdict(domain, topic, judged, claims)
            if not (goes_on and label == NO_FACT):
                first = offset + begun if begun else start  # a list mark goes with the first clause
                yield Sentence(first, offset + begun + len(clause), label, None, evidence, kind)
                begun, claims = stop, []


def _built_in(name: str) -> FactTable | None:
    if name == "countries":
        from maskdpo_ray.domains import countries

        return countries.table()
    if name == "elements":
        from maskdpo_ray.domains import elements

        return elements.table()
    return None


def _verdict(domain: _Domain, topic: Entity, text: str, claims: Sequence[Claim]) -> tuple[str, str, str | None]:
    """(label, evidence, kind of fact or None) of a sentence or clause of an answer about `topic`."""
    checked = [_check(domain, topic, claim) for claim in claims]
    for wanted, label in ((False, CONTRADICTORY), (True, NO_HALLUCINATION)):
        for truth, evidence, kind in checked:
            if truth is wanted:
                return label, evidence, kind
    named = domain.reader.mentions(text)
    if named and domain.generic and domain.generic.search(text) and topic.name in named[0].named(ENTITY_SENSE):
        return NO_HALLUCINATION, f"{topic.name} is one of the table's entities", None
    if reason := _claims_nothing(domain, text):
        return NO_FACT, reason, None
    if checked:
        return UNVERIFIABLE, checked[0][1], checked[0][2]
    return UNVERIFIABLE, f"states no fact of {topic.name} that the table holds", None


def _check(domain: _Domain, topic: Entity, claim: Claim) -> tuple[bool | None, str, str]:
    """(true, false or None: cannot be judged; evidence; kind)."""
    kind = domain.kinds[claim.kind]
    if claim.foreign and not _is_part(topic, kind, claim.foreign):
        return None, f"speaks of {claim.foreign}, which is not in the table", kind.name
    names = claim.subjects or (topic.name,)
    subjects = [topic] if topic.name in names else [domain.entities[name] for name in names]
    best: tuple[bool | None, str, str] | None = None
    for subject in subjects:
        truth, evidence = _compare(kind, subject, claim)
        if best is None or truth:
            best = (truth, evidence, kind.name)
    assert best is not None
    return best


def _is_part(topic: Entity, kind: Kind, name: str) -> bool:
    """Whether what holds for the topic holds for this: its capital is where it is, but borders nothing."""
    own = {key(spelling) for values in topic.facts.values() for v in values for spelling in (v.name, *v.aliases)}
    return kind.shape != ENTITY and key(name) in own


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
        return (True if kind.closed_world and not any(right) else None), evidence
    if all(right):
        return (None if claim.hedged else True), evidence
    return (False if kind.closed_world else None), evidence


def _claims_nothing(domain: _Domain, text: str) -> str | None:
    """Why a sentence without a judged claim claims nothing at all, or None if it may claim something."""
    words = tokens(text)
    if not words:
        return "no words"
    if _META.match(text):
        return "speaks to the reader, claims nothing"
    if text.rstrip("*_ ").endswith("?"):
        return "a question"
    if text.rstrip("*_ ").endswith(":"):
        return "a heading"
    mentions = domain.reader.mentions(text)
    signals = [signal for signal in domain.reader.signals(text) if signal.strong]
    covered = {i for item in (*mentions, *signals) for i in range(item.start, item.end)}
    if len(words) <= 4 and len(covered) == len(words) and (not signals or not mentions):
        return "a name or heading, no claim"
    unfinished = not re.search(r"[.!]\W*$", text)
    if unfinished and len(words) <= 5 and signals and not mentions:
        return "breaks off before it claims anything"
    if unfinished and len(words) <= 8 and words[-1].key in {"is", "are", "the", "of", "a", "in", "and", "has", "its"}:
        return "breaks off before it claims anything"
    return None
