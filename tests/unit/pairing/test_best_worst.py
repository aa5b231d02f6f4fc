"""Mask-DPO's pair: highest against lowest, its filters, and which answers are no candidates."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_answers import QUESTION, answer, answers, labels_of, only, selected

from maskdpo_ray.errors import ConfigError
from maskdpo_ray.pairing.scoring import num_facts
from maskdpo_ray.records import (
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    DropReason,
    PreferencePair,
    ScoredAnswer,
)

N, H, C, U = NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE


def test_highest_against_lowest() -> None:
    items = [
        answer(0, NO_HALLUCINATION, CONTRADICTORY),
        answer(1, NO_HALLUCINATION, NO_HALLUCINATION, UNVERIFIABLE),
        answer(2, CONTRADICTORY, NO_FACT, UNVERIFIABLE),
    ]
    assert only(selected(items)) == PreferencePair(QUESTION.id, "Rwanda", (7, 8), items[1], items[2], 0)


def test_equal_scores_take_the_lowest_sample() -> None:
    labels = [CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE]
    items = [answer(i, label) for i, label in enumerate(labels)]
    pair = only(selected(items[::-1], min_facts=0))
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen.rollout.sample, pair.rejected.rollout.sample) == (1, 0)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], DropReason.TOO_FEW_ANSWERS),
        ([answer(0, NO_FACT)], DropReason.TOO_FEW_ANSWERS),
        ([answer(0, NO_FACT), answer(1, CONTRADICTORY, finish="length")], DropReason.TRUNCATED),
        ([answer(0, NO_FACT), answer(1, UNPARSED)], DropReason.UNPARSED),
        ([answer(0, NO_FACT), answer(1)], DropReason.UNPARSED),
        ([answer(0, NO_FACT), answer(1, NO_HALLUCINATION)], DropReason.SAME_SCORE),
        ([answer(0, CONTRADICTORY), answer(1, UNVERIFIABLE)], DropReason.SAME_SCORE),
        ([answer(0, NO_FACT, text="It."), answer(1, NO_FACT, text="It.")], DropReason.IDENTICAL_TEXT),
        ([answer(0, NO_FACT, text="It."), answer(1, CONTRADICTORY, text="It.")], DropReason.IDENTICAL_TEXT),
        (
            [answer(0, NO_FACT, text="A."), answer(1, CONTRADICTORY, text="A."), answer(2, NO_FACT, UNVERIFIABLE)],
            DropReason.IDENTICAL_TEXT,
        ),
    ],
)
def test_drop_reasons(items: list[ScoredAnswer], reason: DropReason) -> None:
    assert only(selected(items, min_facts=0)) is reason


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        # An abstention scores 1.0; the next best that states something is taken.
        ([[N], [H, H, H, H, C], [C]], {}, (1, 2)),
        ([[N], [H, H, H, H, C]], {}, DropReason.TOO_FEW_FACTS),  # the next best is the worst
        ([[N], [H, H, H, H, C]], {"min_facts": 0}, (0, 1)),
        ([[N], [H, H, H, H, C], [C]], {"next_best": False}, DropReason.TOO_FEW_FACTS),
        ([[H], [H, H, H, H, C], [C]], {"next_best": False}, (0, 2)),
        ([[N], [N, C]], {}, DropReason.TOO_FEW_FACTS),
        ([[N], [N, N]], {}, DropReason.SAME_SCORE),
        ([[H], [H] * 9 + [C]], {}, (0, 1)),  # the paper's score looks at the share, not at how much is stated
        ([[H], [H] * 9 + [C], [C]], {"min_facts": 2}, (1, 2)),
        ([[H], [C]], {"min_facts": 2}, DropReason.TOO_FEW_FACTS),
        # Ties.
        ([[H], [H] * 5, [C]], {}, (0, 2)),
        ([[H] * 5, [H], [C]], {}, (0, 2)),
        ([[H], [H] * 5, [C], [C, C]], {"ties": "most_facts"}, (1, 3)),
        ([[H] * 5, [H] * 5, [C, U], [C, C]], {"ties": "most_facts"}, (0, 2)),
        ([[N, N, H], [H, H], [C]], {"ties": "most_facts"}, (1, 2)),
        ([[C], [C, U]], {}, DropReason.SAME_SCORE),
        ([[H], [H, H]], {}, DropReason.SAME_SCORE),
    ],
)
def test_who_is_chosen(labels: list[list[str]], options: dict[str, object], expected: object) -> None:
    own = {name: value for name, value in options.items() if name != "min_facts"}
    rules = {name: value for name, value in options.items() if name == "min_facts"}
    found = only(selected([answer(i, *each) for i, each in enumerate(labels)], options=own, **rules))
    if isinstance(found, PreferencePair):
        found = (found.chosen.rollout.sample, found.rejected.rollout.sample)
    assert found == expected


def test_answers_that_were_cut_off() -> None:
    items = [answer(0, H, H, finish="length"), answer(1, H, C), answer(2, C)]
    for cut_off, chosen in (("drop", 1), ("keep", 0)):
        pair = only(selected(items, cut_off=cut_off))
        assert isinstance(pair, PreferencePair) and pair.chosen.rollout.sample == chosen


def test_other_ties_are_refused() -> None:
    message = "^pairs.options: best_worst: ties: expected one of first, most_facts, got 'last'$"
    with pytest.raises(ConfigError, match=message):
        selected([answer(0, H), answer(1, C)], options={"ties": "last"})


@given(answers, st.integers(1, 2))
def test_a_chosen_answer_states_something(items: list[ScoredAnswer], least: int) -> None:
    """A chosen answer states enough and no better one does; if none is chosen, none is better than the worst."""
    outcome = only(selected(items, min_facts=least))
    candidates = [a for a in items if a.rollout.finish_reason == "stop" and a.score is not None]
    stating = [a.score for a in candidates if labels_of(a).count(H) >= least]
    if isinstance(outcome, PreferencePair):
        assert num_facts(outcome.chosen) == labels_of(outcome.chosen).count(H) >= least
        assert outcome.chosen.score == max(stating) > min(a.score for a in candidates) == outcome.rejected.score
    elif outcome is DropReason.TOO_FEW_FACTS:
        assert all(score == min(a.score for a in candidates) for score in stating)


@given(answers, st.randoms(use_true_random=False))
def test_a_pair_is_what_the_paper_asks_for(items: list[ScoredAnswer], shuffler: random.Random) -> None:
    outcome = only(selected(items, min_facts=0))
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    for rules in ({"min_facts": 0}, {}, {"options": {"ties": "most_facts"}, "cut_off": "keep"}):
        assert selected(shuffled, **rules) == selected(items, **rules)

    candidates = [a for a in items if a.rollout.finish_reason == "stop" and set(labels_of(a)) - {UNPARSED}]
    if isinstance(outcome, DropReason):
        scores = {a.score for a in candidates}
        texts = {a.rollout.text for a in candidates}
        # Only a clash of texts between best and worst drops a question whose scores differ.
        assert len(scores) < 2 or len(texts) < len(candidates)
        return
    chosen, rejected = outcome.chosen, outcome.rejected
    assert chosen in candidates and rejected in candidates
    scores = [a.score for a in candidates]
    assert chosen.score == max(scores) > min(scores) == rejected.score
    assert set(labels_of(chosen)) & CORRECT and set(labels_of(rejected)) & INCORRECT
    assert chosen.rollout.text != rejected.rollout.text
