"""Scores by hand, against an independent implementation, and by the properties that they are chosen for."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import harmonic_mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_answers import annotation, answer

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.evaluation import metrics
from maskdpo_ray.pairing import scoring
from maskdpo_ray.pairing.scoring import SCORES, build, mixture, scored
from maskdpo_ray.records import (
    CONTRADICTORY,
    LABELS,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    PreferencePair,
    ScoredAnswer,
)

N, H, C, U, X = NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE, UNPARSED
labels = st.lists(st.sampled_from(LABELS), max_size=12)


def score_of(name: str, *spans: str, **options: Any) -> float | None:
    return build(PairsConfig(score=name, score_options=options or None))(annotation(*spans))


@pytest.mark.parametrize(
    ("name", "options", "spans", "expected"),
    [
        ("precision", {}, [N, H, C, U], 1 / 2),
        ("precision", {}, [H, H, C], 2 / 3),
        ("precision", {}, [N], 1.0),
        ("precision", {}, [U, C], 0.0),
        ("precision", {}, [X, H, C], 1 / 2),
        ("detail", {}, [N], 0.0),
        ("detail", {}, [H] * 5, 1 / 2),
        ("detail", {}, [H] * 5 + [C] * 5, 1 / 4),
        ("detail", {"half": 1}, [H, H, N, C, X], 3 / 4 * 2 / 3),
        ("f1_at_k", {"k": 2}, [H, H], 1.0),
        ("f1_at_k", {"k": 2}, [H] * 9, 1.0),
        ("f1_at_k", {"k": 4}, [H, H, C, U], 1 / 2),
        ("f1_at_k", {"k": 4}, [H, H, N, N], 2 / 3),
        ("f1_at_k", {"k": 4}, [N, C], 0.0),
        ("f1_at_k", {"k": 4}, [N], 0.0),
        ("contradiction_free", {}, [H, U, N], 1.0),
        ("contradiction_free", {}, [H, H, H, C], 0.0),
        ("contradiction_free", {}, [N, U], 0.0),
        ("contradiction_free", {"min_facts": 0}, [N, U], 1.0),
        ("contradiction_free", {"min_facts": 3}, [H, H], 0.0),
        ("short_answer", {}, [H], 1.0),
        ("short_answer", {}, [C], 0.0),
        ("short_answer", {}, [H, U], 0.0),
        ("short_answer", {}, [N, H], 1.0),
        ("short_answer", {}, [N], None),
        ("short_answer", {}, [H, X], None),
        ("short_answer", {"abstention": 0.5}, [N], 0.5),
        ("short_answer", {"abstention": 0}, [N], 0.0),
        ("short_answer", {"abstention": 0.5}, [X], None),
    ],
)
def test_scores_by_hand(name: str, options: dict[str, Any], spans: list[str], expected: float | None) -> None:
    assert score_of(name, *spans, **options) == (None if expected is None else pytest.approx(expected, abs=1e-12))


OPTIONS = {"f1_at_k": {"k": 5}}


@pytest.mark.parametrize("name", SCORES)
@given(labels)
def test_scores_lie_between_0_and_1_and_need_a_label(name: str, spans: list[str]) -> None:
    found = score_of(name, *spans, **OPTIONS.get(name, {}))
    if not set(spans) - {X}:
        assert found is None
    elif name != "short_answer":
        assert found is not None and 0 <= found <= 1


@given(labels)
def test_spans_without_a_readable_label_count_in_no_score(spans: list[str]) -> None:
    for name in set(SCORES) - {"short_answer"}:
        options = OPTIONS.get(name, {})
        assert score_of(name, *spans, **options) == score_of(name, *(span for span in spans if span != X), **options)


@given(labels, st.integers(1, 10))
def test_f1_at_k_is_the_harmonic_mean(spans: list[str], k: int) -> None:
    right, wrong = spans.count(H), spans.count(C) + spans.count(U)
    if set(spans) - {X}:
        expected = harmonic_mean([Fraction(right, right + wrong), min(Fraction(right, k), Fraction(1))]) if right else 0
        found = score_of("f1_at_k", *spans, k=k)
        assert math.isclose(found, expected, abs_tol=1e-12) and found == metrics.f1_at_k(right, wrong, k)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 9))
def test_detail_gains_by_each_fact_and_less_by_each(right: int, wrong: int, half: int) -> None:
    """Strictly increasing and concave in the number of correct facts at a fixed precision; lower with a wrong one."""

    def detail(right: int, wrong: int) -> float:
        return score_of("detail", *[H] * right, *[C] * wrong, half=half) or 0.0

    scores = [detail(n * right, n * wrong) for n in (1, 2, 3)]
    if right:
        assert scores[0] < scores[1] < scores[2] < 1
        assert scores[1] - scores[0] > scores[2] - scores[1]
        assert detail(right, wrong + 1) < scores[0]


def test_an_answer_that_says_nothing_wins_by_precision_alone() -> None:
    silent, telling = [N], [H, H, H, H, C]
    better = {name for name in SCORES if (score_of(name, *silent, **OPTIONS.get(name, {})) or 0) > 0}
    assert better == {"precision"}
    for name in ("detail", "f1_at_k"):
        assert score_of(name, *telling, **OPTIONS.get(name, {})) > 0


def longest_first(annotation: Any, most: int = 4) -> float:
    """A score of a user's."""
    return len(annotation.sentences) / most


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"score": "f2"},
            "pairs.score: expected one of contradiction_free, detail, f1_at_k, precision, short_answer, ",
        ),
        ({"score": "f1_at_k"}, "pairs.score_options: f1_at_k: expected k, which has no default"),
        (
            {"score": "f1_at_k", "score_options": {"k": 0}},
            "pairs.score_options: f1_at_k: k: expected at least 1, got 0",
        ),
        ({"score_options": {"k": 3}}, "pairs.score_options: precision: precision takes none; got 'k'"),
        (
            {"score": "detail", "score_options": {"half": 0}},
            "pairs.score_options: detail: half: expected above 0, got 0",
        ),
        ({"score": "detail", "score_options": {"half": "x"}}, "pairs.score_options: detail: half: expected a number, "),
        (
            {"score": "short_answer", "score_options": {"abstention": 1}},
            "pairs.score_options: short_answer: abstention: expected 0 to below 1, got 1",
        ),
        (
            {"score": "contradiction_free", "score_options": {"min_facts": -1}},
            "pairs.score_options: contradiction_free: min_facts: expected at least 0, got -1",
        ),
        ({"score": "python:nowhere:score"}, "pairs.score: can't import nowhere of 'python:nowhere:score': "),
    ],
)
def test_bad_scores_are_refused_in_one_line(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(PairsConfig(**rules))
    assert str(error.value).startswith(message)


def test_a_score_of_the_users_own() -> None:
    own = build(PairsConfig(score=f"python:{__name__}:longest_first", score_options={"most": 2}))
    assert answer(0, H, score=own).score == 0.5
    with pytest.raises(ConfigError, match=r"^pairs.score: expected a function that returns 0 to 1, or None, got 1.5$"):
        answer(0, H, H, C, score=own)


def test_labels_of_another_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="sample 1"):
        scored(answer(0, N).rollout, answer(1, N).annotation)


def test_a_score_is_needed_where_one_is_asked_for() -> None:
    assert scoring.value(answer(0, H)) == 1.0
    with pytest.raises(ValueError, match="answer 3 to 'rwanda/five' has no score"):
        scoring.value(answer(3))


def test_mixture_counts_what_masking_can_work_on() -> None:
    def pair(chosen: ScoredAnswer, rejected: ScoredAnswer) -> PreferencePair:
        return PreferencePair("q", "Rwanda", (7,), chosen, rejected, 0)

    pairs = [
        pair(answer(0, N, U), answer(1, C)),
        pair(answer(0, N, X), answer(1, C, X)),
        pair(answer(0, N, H), answer(1, N, C)),
        pair(answer(0, H, C), answer(1, C)),
    ]
    assert mixture(pairs) == {"chosen_with_incorrect": 0.5, "rejected_with_correct": 0.25}
    assert mixture([]) == {"chosen_with_incorrect": 0.0, "rejected_with_correct": 0.0}
