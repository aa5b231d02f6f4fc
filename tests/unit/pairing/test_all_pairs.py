from __future__ import annotations

from itertools import combinations

from hypothesis import given
from labelled_answers import answer, answers, samples, selected

from maskdpo_ray.records import CONTRADICTORY as C
from maskdpo_ray.records import NO_HALLUCINATION as H
from maskdpo_ray.records import DropReason, ScoredAnswer


def test_all_pairs_with_different_scores() -> None:
    items = [answer(0, H, C), answer(1, H), answer(2, C), answer(3, C, C)]
    found = selected(items, strategy="all_pairs")
    assert samples(found) == [(0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    assert found.drops == (DropReason.SAME_SCORE,)


@given(answers)
def test_n_over_2_without_those_of_one_score(items: list[ScoredAnswer]) -> None:
    usable = [item for item in items if item.rollout.finish_reason == "stop" and item.score is not None]
    texts = {item.rollout.sample: item.rollout.text for item in usable}
    expected = {
        frozenset((a.rollout.sample, b.rollout.sample))
        for a, b in combinations(usable, 2)
        if a.score != b.score and texts[a.rollout.sample] != texts[b.rollout.sample]
    }
    found = samples(selected(items, strategy="all_pairs", min_facts=0))
    assert {frozenset(pair) for pair in found} == expected and len(found) == len(expected)
