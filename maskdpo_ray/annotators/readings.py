"""Readings of a clause: claims, and the words that they were read from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from maskdpo_ray.annotators.clauses import NEGATIONS, Clause
from maskdpo_ray.annotators.idle import AUXILIARIES, COUNTS, ONLY
from maskdpo_ray.annotators.mentions import Mention, Signal, Token
from maskdpo_ray.domains.table import Kind

COMPASS = {
    name: 45.0 * number
    for number, name in enumerate("north northeast east southeast south southwest west northwest".split())
}
"""Degrees from the north, clockwise."""
_TO_BOTH = frozenset("and to the".split())
_JOINING = frozenset("and or as well also both the".split())
_DENIALS = NEGATIONS - {"never", "neither", "except", "excluding"}


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim. `values`: for each named thing, the table's names that it can stand for; empty if unknown."""

    kind: str
    subjects: tuple[str, ...]
    """Names of the entities that the claim may be about; empty: the question's entity."""
    values: tuple[frozenset[str], ...]
    said: str
    """The values in the sentence's own words."""
    negated: bool = False
    foreign: str = ""
    """A named subject that is not in the table ("Ontario")."""
    count: int | None = None
    """Number of values that the claim states ("three capitals"), 0 for "only"; None: not stated."""
    directions: tuple[tuple[str, ...], ...] = ()
    """Compass directions in which the claim places each value ("Uganda to the north"); mostly none."""
    taken: frozenset[int] = frozenset()
    """Offsets of the claim's words in its sentence, without its subject's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A clause with its claims."""

    start: int
    """Start in the sentence."""
    claims: tuple[Claim, ...]
    words: tuple[Token, ...]
    mentions: tuple[Mention, ...]


def with_directions(clause: Clause, signal: Signal, values: list[Mention], claim: Claim) -> Claim:
    """The claim with where each value lies: "Kenya and Uganda to the north, Chad to the south and west".

    In a clause directions either all follow or all precede their values.
    """
    words = clause.words
    named = {i for m in clause.mentions for i in range(m.start, m.end)}
    at = [i for i in range(signal.end, len(words)) if words[i].key in COMPASS and i not in named]
    if not at or any(m.start < signal.end for m in values):
        return claim
    follow = values[0].start < at[0]
    groups: list[list[int]] = []
    for i in at:
        apart = not groups or any(word.key not in _TO_BOTH for word in words[groups[-1][-1] + 1 : i])
        groups = [*groups, [i]] if apart else [*groups[:-1], [*groups[-1], i]]

    def lies(mention: Mention) -> tuple[str, ...]:
        near = [g for g in groups if (g[0] > mention.start if follow else g[0] < mention.start)]
        group = (near[0] if follow else near[-1]) if near else []
        return tuple(words[i].key for i in group)

    return replace(claim, directions=tuple(map(lies, values)), taken=claim.taken | {words[i].start for i in at})


def listed(clause: Clause, values: list[Mention], sense: str) -> list[Mention]:
    """The values and all other items of their list: "both Europe and Asia", "English and French"."""
    listed: list[Mention] = []
    others = [m for m in clause.mentions if m.named(sense)]
    for run in _runs(clause, others):
        listed += run if any(m in values for m in run) else []
    return listed


def _runs(clause: Clause, mentions: list[Mention]) -> Iterator[list[Mention]]:
    run: list[Mention] = []
    for mention in mentions:
        between = clause.words[run[-1].end : mention.start] if run else ()
        if run and not all(word.key in _JOINING for word in between):
            yield run
            run = []
        run.append(mention)
    if run:
        yield run


def taken(clause: Clause, kind: Kind, values: list[Mention], negated: bool) -> frozenset[int]:
    """The words of a claim: values, the phrase that announces its kind (or a noun after a value), and its "not"."""
    words, found = clause.words, {i for m in values for i in range(m.start, m.end)}
    for signal in clause.signals:
        if signal.kind == kind.name or (signal.start - 1 in found and any(m.named(signal.kind) for m in values)):
            found |= set(range(signal.start, signal.end))
    # "used to border" is about the past.
    found -= {i for i in range(len(words) - 1) if words[i].key == "used" and words[i + 1].key == "to"}
    nots = [i for i, word in enumerate(words) if word.key in NEGATIONS]
    if negated and len(nots) == 1 and (words[nots[0]].key != "not" or words[nots[0] - 1].key in AUXILIARIES):
        found |= set(nots) if words[nots[0]].key in _DENIALS else set()
    return frozenset(words[i].start for i in found)


def with_count(clause: Clause, signal: Signal, claim: Claim) -> Claim:
    """The claim with the number of values that the clause states: "three capitals", "only borders"."""
    words = clause.words
    places = [signal.start - 1, signal.end]
    if signal.end < len(words) and words[signal.end].key in {"by", "with"}:
        places.append(signal.end + 1)
    for i in places:
        if not 0 <= i < len(words) or words[i].start in claim.taken:
            continue
        count = 0 if words[i].key in ONLY else COUNTS.get(words[i].key)
        count = int(words[i].key) if words[i].key.isdecimal() else count
        # "One neighbour is ..." and "one of the capitals" name one of more.
        if count is not None and not (count == 1 and words[i - 1].key not in {"has", "have"}):
            return replace(claim, count=count, taken=claim.taken | {words[i].start})
    return claim
