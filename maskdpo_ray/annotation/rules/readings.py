"""Readings of a clause: claims, and the words that they were read from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from maskdpo_ray.annotation.rules.clauses import COPULAS, NEGATIONS, Clause
from maskdpo_ray.annotation.rules.idle import AUXILIARIES, COUNTS, ONLY
from maskdpo_ray.annotation.rules.mentions import ENTITY_SENSE, Mention, Signal, Token
from maskdpo_ray.data.domains.table import ENTITY, Kind

Place = tuple[float, float] | None
COMPASS = {
    name: 45.0 * number
    for number, name in enumerate("north northeast east southeast south southwest west northwest".split())
}
"""Degrees from the north, clockwise."""
_NEAR, _SIDEWAYS = 75, 90
"""Tolerance of a direction, degrees."""
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
    repeats: bool = False
    """Whether a value is told twice in the same words."""
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
    first = 0 if words[0].key == "to" else signal.end  # "To the south, it borders ..."
    at = [i for i in range(first, len(words)) if words[i].key in COMPASS and i not in named]
    if not at or any(m.start < signal.end for m in values):
        return claim
    follow = values[0].start < at[0]
    groups: list[list[int]] = []
    for i in at:
        apart = not groups or any(word.key not in _TO_BOTH for word in words[groups[-1][-1] + 1 : i])
        groups = [*groups, [i]] if apart else [*groups[:-1], [*groups[-1], i]]

    def beside(mention: Mention) -> list[int]:
        near = [g for g in groups if (g[0] > mention.start if follow else g[0] < mention.start)]
        return (near[0] if follow else near[-1]) if near else []

    found = [beside(mention) for mention in values]
    directions = tuple(tuple(words[i].key for i in group) for group in found)
    return replace(claim, directions=directions, taken=claim.taken | {words[i].start for g in found for i in g})


def lies(of: Place, what: Place, directions: Sequence[str]) -> bool:
    """Whether a place lies in these directions of another, both in degrees north and east; False if one is unknown."""
    if of is None or what is None:
        return False
    north = what[0] - of[0]
    east = (what[1] - of[1] + 180) % 360 - 180
    east *= math.cos(math.radians((what[0] + of[0]) / 2))
    bearing = math.degrees(math.atan2(east, north))
    off = [abs((bearing - COMPASS[direction] + 180) % 360 - 180) for direction in directions]
    return min(off) <= _NEAR and max(off) <= _SIDEWAYS


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
    announcing = [s for s in clause.signals if s.kind == kind.name and _announces(clause, s, kind, values)]
    for signal in clause.signals:
        if signal in announcing or (signal.start - 1 in found and any(m.named(signal.kind) for m in values)):
            found |= set(range(signal.start, signal.end))
    # "used to border" is about the past.
    found -= {i for i in range(len(words) - 1) if words[i].key == "used" and words[i + 1].key == "to"}
    nots = [i for i, word in enumerate(words) if word.key in NEGATIONS]
    if negated and len(nots) == 1 and (words[nots[0]].key != "not" or words[nots[0] - 1].key in AUXILIARIES):
        found |= set(nots) if words[nots[0]].key in _DENIALS else set()
    return frozenset(words[i].start for i in found)


def _announces(clause: Clause, signal: Signal, kind: Kind, values: list[Mention]) -> bool:
    """Whether a phrase announces the values: not twice over in "its neighbours' neighbours" and "the capital of its
    capital", nor in "the continent Kenya" and "Kenya, the continent, ...", where it describes the subject.
    """
    words = clause.words
    again = any(
        s.strong and s.kind == signal.kind and s.end < signal.start and words[s.end].key == "of"
        for s in clause.signals
        if not any(s.end <= m.start < signal.start for m in clause.mentions)
    )
    if again or words[signal.end - 1].possessive:
        return False
    if not signal.strong or kind.shape == ENTITY:
        return True
    subjects = [m for m in clause.mentions if m.named(ENTITY_SENSE) and m not in values]
    gap, after = words[signal.end - 1].gap, words[signal.end].key if signal.end < len(words) else ""
    leads = any(m.start == signal.end and not gap.strip(" *_") for m in subjects)
    return not (leads or ("," in gap and after in COPULAS))


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
