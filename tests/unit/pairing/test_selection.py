"""Properties of every strategy: the answers that it sees, the filters of its picks, the draw; order is nothing."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_answers import QUESTION, answer, answers, labels_of, only, samples, selected, with_kinds
from msgspec import structs

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.pairing import scoring
from maskdpo_ray.pairing.selection import select, unfit
from maskdpo_ray.pairing.strategies import protocol
from maskdpo_ray.records import (
    CHOSEN,
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    NO_FACT,
    NO_HALLUCINATION,
    REJECTED,
    UNPARSED,
    UNVERIFIABLE,
    DropReason,
    PreferencePair,
    ScoredAnswer,
)

N, H, C, U, X = NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE, UNPARSED
RULES = PairsConfig()
STRATEGIES = protocol.names()


def each_with_the_next(answers: Sequence[ScoredAnswer], rules: PairsConfig, step: int = 1) -> protocol.Picks:
    """A strategy of a user's, which looks at no score."""
    return [(answers[i], answers[i + step]) for i in range(len(answers) - step)]


OWN = f"python:{__name__}:each_with_the_next"


def test_strategies_are_found_by_listing_their_folder() -> None:
    files = {file.stem for file in Path(protocol.__file__).parent.glob("*.py")} - {"__init__", "protocol"}
    assert set(STRATEGIES) == files >= {"all_pairs", "best_worst", "correct_incorrect", "unpaired"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"strategy": "all_pair"}, "pairs.strategy: expected one of "),
        ({"strategy": "python:nowhere:pick"}, "pairs.strategy: can't import nowhere of 'python:nowhere:pick': "),
        ({"options": {"next": True}}, "pairs.options: best_worst: expected one of next_best, ties; got 'next'"),
        ({"options": {"next_best": 1}}, "pairs.options: best_worst: next_best: expected true or false, got 1"),
        (
            {"strategy": "unpaired", "options": {"threshold": "high"}},
            "pairs.options: unpaired: threshold: expected a number, got 'high'",
        ),
    ],
)
def test_bad_strategies_are_refused_in_one_line(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        protocol.build(PairsConfig(**rules))
    assert str(error.value).startswith(message)


def test_a_strategy_of_the_users_own() -> None:
    items = [answer(0, H), answer(1, C), answer(2, H), answer(3, N, C)]
    found = selected(items, strategy=OWN)
    assert samples(found) == [(0, 1), (2, 3)]
    assert found.drops == (DropReason.CHOSEN_WITHOUT_CORRECT,)
    found = selected(items, strategy=OWN, options={"step": 2})
    assert not found.pairs and sorted(found.drops) == [DropReason.CHOSEN_WITHOUT_CORRECT, DropReason.SAME_SCORE]
    assert only(selected(items, strategy=OWN, options={"step": 4})) is DropReason.NOTHING_PICKED


@given(answers, st.randoms(use_true_random=False), st.sampled_from(STRATEGIES), st.none() | st.integers(1, 4))
def test_order_is_nothing(
    items: list[ScoredAnswer], shuffler: random.Random, strategy: str, max_pairs: int | None
) -> None:
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    rules = {"strategy": strategy, "max_pairs": max_pairs}
    assert selected(shuffled, **rules) == selected(items, **rules)


@given(
    answers, st.sampled_from(STRATEGIES), st.integers(0, 2), st.sampled_from([0.0, 0.25]), st.sampled_from([0.5, None])
)
def test_every_pair_passes_the_filters_and_every_pick_is_counted(
    items: list[ScoredAnswer], strategy: str, min_facts: int, min_gap: float, max_gap: float | None
) -> None:
    found = selected(items, strategy=strategy, min_facts=min_facts, min_gap=min_gap, max_gap=max_gap)
    for pair in found.pairs:
        chosen, rejected = pair.chosen, pair.rejected
        for side in filter(None, (chosen, rejected)):
            assert side in items and side.rollout.finish_reason == "stop" and side.score is not None
        if chosen is not None:
            assert labels_of(chosen).count(H) >= min_facts and set(labels_of(chosen)) & CORRECT
        if rejected is not None:
            assert set(labels_of(rejected)) & INCORRECT
        if chosen is not None and rejected is not None:
            assert chosen.rollout.text != rejected.rollout.text
            assert min_gap < chosen.score - rejected.score <= (max_gap or 1)
    assert found.pairs or found.drops
    usable = sum(item.rollout.finish_reason == "stop" and item.score is not None for item in items)
    if strategy == "all_pairs" and usable > 1:
        assert len(found.pairs) + len(found.drops) == usable * (usable - 1) / 2
    if strategy == "unpaired" and usable:
        assert len(found.pairs) + len(found.drops) == usable


@given(answers, st.integers(1, 3), st.integers(0, 9))
def test_a_draw_takes_some_of_what_there_is(items: list[ScoredAnswer], most: int, seed: int) -> None:
    everything = selected(items, strategy="all_pairs")
    some = selected(items, seed, strategy="all_pairs", max_pairs=most)
    assert len(some.pairs) == min(most, len(everything.pairs)) and some.drops == everything.drops
    assert [pair for pair in everything.pairs if pair in some.pairs] == list(some.pairs)


def test_a_draw_is_uniform() -> None:
    """Each of the 12 pairs is kept in a quarter of 3000 draws of 3; 4 standard deviations are .032."""
    items = [answer(i, *([H] * i + [C] * (4 - i))) for i in range(5)]
    everything = samples(selected(items, strategy="all_pairs", require_labels=False, min_facts=1))
    assert len(everything) == 10
    counts = Counter(
        pair
        for seed in range(3000)
        for pair in samples(selected(items, seed, strategy="all_pairs", require_labels=False, max_pairs=3))
    )
    assert sum(counts.values()) == 9000 and set(counts) == set(everything)
    assert all(abs(count / 3000 - 0.3) < 4 * (0.3 * 0.7 / 3000) ** 0.5 for count in counts.values())


def test_another_question_has_another_draw() -> None:
    def drawn(question_id: str) -> list[tuple[int | None, int | None]]:
        items = [
            structs.replace(
                item,
                rollout=structs.replace(item.rollout, question_id=question_id),
                annotation=structs.replace(item.annotation, question_id=question_id),
            )
            for item in (answer(i, *[H] * i, *[C] * (8 - i)) for i in range(9))
        ]
        question = structs.replace(QUESTION, id=question_id)
        return samples(select(question, [7], items, PairsConfig(strategy="all_pairs", max_pairs=4), seed=1))

    assert len({tuple(drawn(f"q{number}")) for number in range(10)}) == 10
    assert drawn("q1") == drawn("q1")


def test_the_widest_pairs_are_kept() -> None:
    items = [answer(i, *[H] * i, *[C] * (8 - i)) for i in range(9)]
    assert samples(selected(items, strategy="all_pairs", max_pairs=3, keep="widest")) == [(7, 0), (8, 0), (8, 1)]
    assert samples(selected(items, strategy="all_pairs", max_pairs=1, keep="widest")) == samples(selected(items))
    assert samples(selected(items, strategy="all_pairs", keep="widest")) == samples(
        selected(items, strategy="all_pairs")
    )


def gap(pair: PreferencePair) -> float:
    assert pair.chosen is not None and pair.rejected is not None
    return round(scoring.value(pair.chosen) - scoring.value(pair.rejected), 9)


@given(answers)
def test_the_widest_pair_has_the_gap_of_best_and_worst(items: list[ScoredAnswer]) -> None:
    whole = selected(items, strategy="all_pairs", min_facts=0)
    widest = selected(items, strategy="all_pairs", min_facts=0, max_pairs=1, keep="widest").pairs
    assert [gap(pair) for pair in widest] == [max(map(gap, whole.pairs))] if whole.pairs else not widest


def test_a_chosen_answer_must_state_the_kinds_that_the_rejected_one_states() -> None:
    rules = PairsConfig(require_kinds=True)
    chosen = with_kinds(answer(0, H, H, N), "capital", None, "currency")
    for kinds, reason in {
        ("capital", "capital"): None,
        ("capital", None): None,
        (None, None): None,
        ("capital", "currency"): DropReason.LEAVES_OUT_KIND,
    }.items():
        assert unfit(chosen, with_kinds(answer(1, H, C), *kinds), rules) is reason
    assert unfit(chosen, with_kinds(answer(1, H, N, C), "capital", "currency", "capital"), rules) is None
    assert unfit(chosen, with_kinds(answer(1, H, C), "capital", "currency"), PairsConfig()) is None
    with pytest.raises(ConfigError, match=r"pairs.require_kinds: expected False with strategy unpaired"):
        selected([answer(0, H), answer(1, C)], strategy="unpaired", require_kinds=True)
    with pytest.raises(ConfigError, match=r"pairs.keep: expected 'random' with strategy unpaired"):
        selected([answer(0, H), answer(1, C)], strategy="unpaired", keep="widest")


def test_filters_look_at_the_labels_and_not_only_at_the_score() -> None:
    any_facts = PairsConfig(min_facts=0)
    high, low = answer(0, U), answer(1, C)
    assert unfit(structs.replace(high, score=0.9), low, any_facts) is DropReason.CHOSEN_WITHOUT_CORRECT
    low = structs.replace(answer(1, N), score=0.1)
    assert unfit(answer(0, N), low, any_facts) is DropReason.REJECTED_WITHOUT_INCORRECT
    assert unfit(answer(0, N), low, PairsConfig(min_facts=0, require_labels=False)) is None
    assert unfit(answer(0, N), answer(1, C), any_facts) is None
    assert unfit(answer(0, N), answer(1, C), RULES) is DropReason.TOO_FEW_FACTS
    assert unfit(answer(0, H), answer(1, C), RULES) is None
    assert unfit(answer(0, C), answer(1, H), PairsConfig(require_labels=False, min_facts=0)) is DropReason.GAP


@pytest.mark.parametrize(
    ("better", "worse", "level"),
    [(7, 6, 1), (8, 7, 1), (3, 2, 1), (10, 9, 1), (7, 5, 2), (9, 7, 2), (3, 1, 2), (7, 4, 3), (10, 0, 3)],
)
def test_levels_of_quality(better: int, worse: int, level: int) -> None:
    """Differences of tenths belong to the level that ends there (APEFT section 6.2), whatever binary makes of them."""
    pick = [answer(i, *[H] * right, *[C] * (10 - right)) for i, right in enumerate((better, worse))]
    bounds = {1: (0.0, 0.1), 2: (0.1, 0.2), 3: (0.2, None)}
    for number, (least, most) in bounds.items():
        expected = None if number == level else DropReason.GAP
        assert unfit(*pick, PairsConfig(min_gap=least, max_gap=most)) is expected


def test_bounds_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^pairs.max_gap: expected more than pairs.min_gap \(0.2\), got 0.2$"):
        PairsConfig(min_gap=0.2, max_gap=0.2)
    with pytest.raises(ConfigError, match="^pairs.min_facts: expected at least 0, got -1$"):
        PairsConfig(min_facts=-1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_too_few_answers_are_told_apart(strategy: str) -> None:
    few = [answer(0, H)] if protocol.build(PairsConfig(strategy=strategy)).unit == "pair" else []
    assert only(selected(few, strategy=strategy)) is DropReason.TOO_FEW_ANSWERS
    cut = [*few, answer(1, C, finish="length")]
    assert only(selected(cut, strategy=strategy)) is DropReason.TRUNCATED
    assert only(selected([*few, answer(1, X)], strategy=strategy)) is DropReason.UNPARSED


def test_answers_of_another_question_or_several_policies_are_refused() -> None:
    other = structs.replace(QUESTION, id="kenya/five")
    with pytest.raises(ValueError, match="expected 'kenya/five'"):
        select(other, [7], [answer(0, N), answer(1, C)], RULES, 1)
    with pytest.raises(ValueError, match=r"one policy version, got \[0, 1\]"):
        select(QUESTION, [7], [answer(0, N), answer(1, C, version=1)], RULES, 1)


NO_PICKS = "pairs.strategy: expected (chosen, rejected) of the given answers, each once, or a DropReason, got ["


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 7", "pairs.strategy: TypeError: 'int' object is not iterable"),
        (
            "return ['ab']",
            "pairs.strategy: expected (chosen, rejected) of the given answers, each once, or a DropReason, ",
        ),
        ("return [(None, None)]", "pairs.strategy: expected (chosen, rejected) of the given answers, each once"),
        (
            "return 2 * [tuple(answers[:2])]",
            "pairs.strategy: expected (chosen, rejected) of the given answers, each once",
        ),
        ("return answers[9]", "pairs.strategy: IndexError: list index out of range ("),
    ],
)
def test_a_strategy_of_the_users_that_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    module = f"strategy_{hashlib.sha256(body.encode()).hexdigest()[:8]}"
    (tmp_path / f"{module}.py").write_text(f"def own(answers, rules):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        selected([answer(0, H), answer(1, C)], strategy=f"python:{module}:own")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_the_docs_have_every_reason() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/formats.md").read_text(encoding="utf-8")
    table = page.partition("## Questions that give no pair")[2]
    assert [reason for reason in DropReason if f"`{reason}`" not in table] == []


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/pairs.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_pairs.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    items = [answer(0, H, C), answer(1, H), answer(2, C), answer(3, H, H, C)]
    assert samples(selected(items, strategy="python:my_pairs:neighbours")) == [(0, 2), (1, 3), (3, 0)]
    assert samples(selected(items, strategy="python:my_pairs:neighbours", options={"step": 2})) == [(1, 0), (3, 2)]


def test_the_docs_have_every_score_and_strategy_of_ours() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/pairs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert rows == [*scoring.SCORES, "best_worst", "all_pairs", "correct_incorrect", "unpaired"]


roles = st.lists(st.sampled_from([None, CHOSEN, REJECTED]), min_size=8, max_size=8)


@given(answers, roles, st.sampled_from(STRATEGIES))
def test_an_answer_for_one_side_is_on_no_other(
    items: list[ScoredAnswer], given_roles: list[str | None], strategy: str
) -> None:
    given = [
        structs.replace(item, rollout=structs.replace(item.rollout, role=role))
        for item, role in zip(items, given_roles, strict=False)
    ]
    found = selected(given, strategy=strategy)
    assert found.pairs or found.drops
    for pair in found.pairs:
        for role, side in pair.sides().items():
            assert side.rollout.role in (None, role)
