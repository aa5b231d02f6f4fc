from __future__ import annotations

import pytest
from labelled_answers import answer, only, samples, selected

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.pairing.scoring import build
from maskdpo_ray.records import CONTRADICTORY as C
from maskdpo_ray.records import NO_FACT as N
from maskdpo_ray.records import NO_HALLUCINATION as H
from maskdpo_ray.records import UNPARSED as X
from maskdpo_ray.records import DropReason, ScoredAnswer


def answered(*labels: str, **options: object) -> list[ScoredAnswer]:
    """Short answers, one label each."""
    score = build(PairsConfig(score="short_answer", score_options=options))
    return [answer(i, label, score=score) for i, label in enumerate(labels)]


def test_each_correct_answer_with_each_incorrect_one_and_no_unsure_one() -> None:
    found = selected(answered(H, C, X, C, N, H), strategy="correct_incorrect")
    assert samples(found) == [(0, 1), (0, 3), (5, 1), (5, 3)] and not found.drops


def test_at_most_m() -> None:
    found = selected(answered(*[H] * 4, *[C] * 4), strategy="correct_incorrect", max_pairs=8)
    assert len(set(samples(found))) == 8 and not found.drops


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([C, C], DropReason.NONE_CORRECT),
        ([H, H], DropReason.NONE_INCORRECT),
        ([C, X], DropReason.UNPARSED),
        ([N, N, C], DropReason.UNPARSED),
    ],
)
def test_why_there_is_none(labels: list[str], reason: DropReason) -> None:
    assert only(selected(answered(*labels), strategy="correct_incorrect")) is reason


def test_an_abstention_stands_between() -> None:
    items = answered(H, N, C, abstention=0.5)
    assert samples(selected(items, strategy="correct_incorrect")) == [(0, 2)]
    ordered = {"strategy": "all_pairs", "min_facts": 0, "require_labels": False}
    assert samples(selected(items, **ordered)) == [(0, 1), (0, 2), (1, 2)]


def test_thresholds_of_other_scores() -> None:
    items = [answer(i, *[H] * right, *[C] * (4 - right)) for i, right in enumerate((4, 3, 2, 1, 0))]
    options = {"correct": 0.75, "incorrect": 0.25}
    found = selected(items, strategy="correct_incorrect", options=options)
    assert samples(found) == [(0, 3), (0, 4), (1, 3), (1, 4)]
    with pytest.raises(
        ConfigError, match=r"^pairs.options: incorrect: expected a number below correct \(0.5\), got 0.5$"
    ):
        selected(items, strategy="correct_incorrect", options={"correct": 0.5, "incorrect": 0.5})
