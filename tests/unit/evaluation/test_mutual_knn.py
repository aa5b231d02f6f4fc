"""Mutual nearest neighbours: closed forms, and sets counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.analyses import mutual_knn
from maskdpo_ray.evaluation.analyses.embedder import Vectors
from maskdpo_ray.records import Question


def circle(order: list[int]) -> Vectors:
    """Points around a quarter of a circle, one for each of 0 .. n-1, as they follow each other in `order`."""
    angles = np.empty(len(order))
    angles[order] = np.linspace(0, np.pi / 2, len(order))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_model_agrees_with_itself_whatever_the_lengths_and_the_turn() -> None:
    features = np.random.default_rng(1).normal(size=(30, 5))
    lengths = np.random.default_rng(2).uniform(0.1, 9, size=(30, 1))
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
    assert mutual_knn.overlaps(features, features * lengths @ turn, 10).tolist() == [1.0] * 30


def test_two_orders_of_five_prompts() -> None:
    """In a row 0 1 2 3 4 the two neighbours of 0 are 1 and 2; in the row 0 2 4 1 3 they are 2 and 4."""
    found = mutual_knn.overlaps(circle([0, 1, 2, 3, 4]), circle([0, 2, 4, 1, 3]), 2)
    ours = [{1, 2}, {0, 2}, {1, 3}, {2, 4}, {2, 3}]
    theirs = [{2, 4}, {3, 4}, {0, 4}, {1, 4}, {1, 2}]
    assert found.tolist() == [len(one & other) / 2 for one, other in zip(ours, theirs, strict=True)]


def test_against_sets_counted_one_by_one() -> None:
    generator = np.random.default_rng(4)
    features, others = generator.normal(size=(25, 6)), generator.normal(size=(25, 3))

    def near(vectors: Vectors, at: int) -> set[int]:
        cosines = {
            j: float(vectors[at] @ vectors[j] / np.linalg.norm(vectors[at]) / np.linalg.norm(vectors[j]))
            for j in range(len(vectors))
            if j != at
        }
        return set(sorted(cosines, key=lambda j: -cosines[j])[:7])

    expected = [len(near(features, i) & near(others, i)) / 7 for i in range(25)]
    assert mutual_knn.overlaps(features, others, 7).tolist() == pytest.approx(expected)


def test_too_few_prompts() -> None:
    with pytest.raises(DataError, match="k: expected fewer than the other prompts, 3, got 3"):
        mutual_knn.overlaps(circle([0, 1, 2, 3]), circle([0, 1, 2, 3]), 3)


def test_alignment_before_and_after() -> None:
    questions = [
        Question(f"q{n}", f"topic {n // 2}", ({"role": "user", "content": f"What is {n}?"},)) for n in range(5)
    ]
    same, other = circle([0, 1, 2, 3, 4]), circle([0, 2, 4, 1, 3])
    features = {"before": other, "after": same, "reference": same}
    found = mutual_knn.align(questions, features, 2, seed=1, bootstrap_samples=500)
    assert (found.prompts, found.topics, found.by_chance) == (5, 3, 0.5)
    before = mutual_knn.overlaps(other, same, 2)
    change = found.alignment
    assert (change.before, change.after) == (pytest.approx(before.mean()), 1.0)
    assert change.gain == pytest.approx(1 - before.mean())
    assert change.low is not None and change.high is not None and 0 <= change.low <= change.gain <= change.high
    assert mutual_knn.text_of(questions[3]) == "What is 3?"
