"""The steps from entries to questions, and the split of the questions by entry (SMA 3.1)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from maskdpo_ray.data.builders.drafts import OTHERS, Draft, Fault, Maker
from maskdpo_ray.data.builders.entries import Entry, fitted
from maskdpo_ray.data.questions import topic_key
from maskdpo_ray.records import Question

TOGETHER = 64
"""Entries that a maker works on at once, each in a thread of its own."""
LARGEST_TEST = 1 / 3
"""Most of a domain's questions that are held out: 150 of 460 in FactualBench's smallest (SMA table 2)."""
Placed = tuple[Draft, str]
"""An accepted draft and its domain."""


@dataclass
class Step:
    """Counts of one step."""

    given: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    """Reason -> entries, or questions, that the step dropped."""

    def take(self, reason: str | None) -> None:
        """Count one that was given to the step, dropped if there is a reason."""
        self.given += 1
        if reason is not None:
            self.drops[reason] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts for a summary."""
        return {"given": self.given, "kept": self.given - self.drops.total(), "drops": dict(sorted(self.drops.items()))}


@dataclass
class Tally:
    """Counts of all steps."""

    entries: Step = field(default_factory=Step)
    """Entry filtering: those that few have looked at are dropped."""
    descriptions: Step = field(default_factory=Step)
    generation: Step = field(default_factory=Step)
    """Questions that the maker gave, and those of its replies that can't be read."""
    quality: Step = field(default_factory=Step)
    domains: Counter[str] = field(default_factory=Counter)
    """Domain -> questions, before the quality filter."""

    def to_json(self) -> dict[str, Any]:
        """The counts for a summary, in the order of the steps."""
        return {
            "entry_filter": self.entries.to_json(),
            "description_filter": self.descriptions.to_json(),
            "generation": self.generation.to_json(),
            "classification": dict(sorted(self.domains.items())),
            "quality_filter": self.quality.to_json(),
        }


def filtered(entries: Iterable[Entry], min_views: float, tally: Tally) -> Iterator[Entry]:
    """The entries with views enough, or of unknown views, whose descriptions are long enough."""
    for entry in entries:
        is_rare = entry.views is not None and entry.views < min_views
        tally.entries.take("few_views" if is_rare else None)
        if is_rare:
            continue
        found = fitted(entry)
        tally.descriptions.take("too_short" if found is None else None)
        if found is not None:
            yield found


def accepted(entries: Iterable[Entry], maker: Maker, tally: Tally) -> Iterator[list[Placed]]:
    """The drafts of high quality of each entry, in order, each with its domain.

    What is under way when the iteration ends is not waited for.
    """
    pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="entry")

    def of_entry(entry: Entry) -> tuple[list[Draft | Fault], list[str], list[Fault | None]]:
        found = maker.generate(entry)
        drafts = [each for each in found if isinstance(each, Draft)]
        return found, maker.classify(drafts), maker.assess(drafts)

    try:
        for found, domains, faults in pool.map(of_entry, entries):
            for each in found:
                tally.generation.take(str(each) if isinstance(each, Fault) else None)
            tally.domains.update(domains)
            for fault in faults:
                tally.quality.take(None if fault is None else str(fault))
            drafts = [each for each in found if isinstance(each, Draft)]
            of_all = zip(drafts, domains, faults, strict=True)
            yield [(draft, domain) for draft, domain, fault in of_all if fault is None]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def merged(placed: Iterable[Placed], tally: Tally, min_domain: int) -> list[Placed]:
    """The drafts, those of domains with fewer than `min_domain` questions in `OTHERS`."""
    return [(draft, domain if tally.domains[domain] >= min_domain else OTHERS) for draft, domain in placed]


def split(placed: Sequence[Placed], num_test: int, seed: int) -> tuple[list[Question], list[Question]]:
    """(training, test) questions, in order; an entry is on one side, drawn by `seed`.

    Each domain has at most `num_test` questions in the test set, and at most a third of its own. Entries with a
    question of `OTHERS` are not drawn (SMA 3.1).
    """
    sizes = Counter(domain for _, domain in placed)
    room = {domain: min(num_test, int(size * LARGEST_TEST)) for domain, size in sizes.items() if domain != OTHERS}
    of_entry: dict[str, Counter[str]] = {}
    for draft, domain in placed:
        of_entry.setdefault(topic_key(draft.entry.title), Counter())[domain] += 1

    def place(title: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}\0{title}".encode()).digest(), title

    held_out = set()
    for title in sorted(of_entry, key=place):
        if all(room.get(domain, 0) >= count for domain, count in of_entry[title].items()):
            held_out.add(title)
            for domain, count in of_entry[title].items():
                room[domain] -= count
    sides: tuple[list[Question], list[Question]] = [], []
    for draft, domain in placed:
        sides[topic_key(draft.entry.title) in held_out].append(draft.made(domain))
    return sides
