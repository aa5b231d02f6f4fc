"""Steps from entries to questions: counts, domains, the split by entry."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.data.builders import steps, templates
from maskdpo_ray.data.builders.drafts import OTHERS, Draft, Fault
from maskdpo_ray.data.builders.entries import Entry
from maskdpo_ray.data.builders.steps import Tally
from maskdpo_ray.data.questions import load
from maskdpo_ray.errors import AnnotatorError

LONG = "x" * 100


class Maker:
    """Two drafts and a fault of each entry; the first is medical, and unclear in every third entry."""

    def generate(self, entry: Entry) -> list[Draft | Fault]:
        return [draft(entry, 1), draft(entry, 2), Fault.UNPARSED]

    def classify(self, drafts: Sequence[Draft]) -> list[str]:
        return ["medical" if draft.number == 1 else "biography" for draft in drafts]

    def assess(self, drafts: Sequence[Draft]) -> list[Fault | None]:
        return [Fault.UNCLEAR if each.number == 1 and int(each.entry.title) % 3 == 0 else None for each in drafts]


def test_entries_are_worked_on_together_and_a_failure_waits_for_none() -> None:
    class Stuck(Maker):
        def __init__(self) -> None:
            self.met, self.go = threading.Barrier(4), threading.Event()

        def generate(self, entry: Entry) -> list[Draft | Fault]:
            self.met.wait(10)
            if entry.title == "0":
                raise AnnotatorError("no judge")
            self.go.wait(10)
            return super().generate(entry)

    maker, entries = Stuck(), [Entry(str(n), LONG) for n in range(4)]
    try:
        with pytest.raises(AnnotatorError, match="no judge"):
            list(steps.accepted(entries, maker, Tally()))
        assert not maker.go.is_set()
    finally:
        maker.go.set()


def draft(entry: Entry, number: int) -> Draft:
    return Draft(entry, number, f"Q {entry.title}?", "A", ("B", "C", "D"))


def test_every_step_counts_what_it_drops() -> None:
    tally, maker = Tally(), Maker()
    entries = [Entry(str(n), LONG, views=n) for n in range(9)] + [Entry("9", "short"), Entry("10", LONG)]
    fitting = list(steps.filtered(entries, 2, tally))
    assert [entry.title for entry in fitting] == [*"2345678", "10"]
    of_entries = list(steps.accepted(fitting, maker, tally))
    assert len(of_entries) == 8  # one by one, for the progress
    placed = [each for of_entry in of_entries for each in of_entry]
    assert [(each.entry.title, each.number, domain) for each, domain in placed[:4]] == [
        *(("2", 1, "medical"), ("2", 2, "biography"), ("3", 2, "biography"), ("4", 1, "medical"))
    ]
    assert tally.to_json() == {
        "entry_filter": {"given": 11, "kept": 9, "drops": {"few_views": 2}},
        "description_filter": {"given": 9, "kept": 8, "drops": {"too_short": 1}},
        "generation": {"given": 24, "kept": 16, "drops": {"unparsed": 8}},
        "classification": {"biography": 8, "medical": 8},
        "quality_filter": {"given": 16, "kept": 14, "drops": {"unclear": 2}},
    }
    assert {domain for _, domain in steps.merged(placed, tally, 9)} == {OTHERS}
    assert steps.merged(placed, tally, 8) == placed


domains = st.lists(st.sampled_from(["medical", "biography", OTHERS]), min_size=1, max_size=3)


@given(st.lists(domains, max_size=30), st.integers(0, 6), st.integers(0, 3))
def test_the_split_is_by_entry_and_bounded_by_domain(entries: list[list[str]], num_test: int, seed: int) -> None:
    placed = [
        (draft(Entry(str(title), LONG), number), domain)
        for title, of_entry in enumerate(entries)
        for number, domain in enumerate(of_entry)
    ]
    train, test = steps.split(placed, num_test, seed)
    assert Counter(each.id for each in (*train, *test)) == Counter(each.made(domain).id for each, domain in placed)
    assert not {each.topic for each in train} & {each.topic for each in test}
    sizes = Counter(domain for _, domain in placed)
    for domain, count in Counter((each.facts or {})["domain"] for each in test).items():
        assert domain != OTHERS and count <= num_test and 3 * count <= sizes[domain]
    assert steps.split(placed, num_test, seed) == (train, test)


def test_the_test_set_fills_up() -> None:
    placed = [(draft(Entry(str(title), LONG), 1), "medical") for title in range(90)]
    assert [len(side) for side in steps.split(placed, 20, 0)] == [70, 20]
    assert [len(side) for side in steps.split(placed, 40, 0)] == [60, 30]
    assert steps.split(placed, 20, 0)[1] != steps.split(placed, 20, 1)[1]


@pytest.mark.parametrize("domain", ["countries", "elements"])
def test_templates_over_the_built_in_tables(domain: str) -> None:
    tally, maker = Tally(), templates.TableMaker(domain, 2, 0)
    entries = list(steps.filtered(templates.entries(domain), 0, tally))
    placed = [each for batch in steps.accepted(entries, maker, tally) for each in batch]
    short = {(each.topic, each.answer, each.wrong_answers) for each in load(f"builtin:{domain}-short")}
    made = [each.made(place) for each, place in placed]
    assert {(each.topic, each.answer, each.wrong_answers) for each in made} <= short
    assert set(Counter(each.topic for each in made).values()) == {2}
    assert all(len(each.document or "") <= 800 and len(each.prompt) == 5 for each in made)
    assert tally.quality.drops == {} and len(tally.domains) == 1
