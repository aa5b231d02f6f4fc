"""Best of N before and after, against the mean over all subsets."""

from __future__ import annotations

from itertools import combinations

import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.analyses import best_of
from maskdpo_ray.records import Annotation, Sentence

TOPIC_OF = {"a": "A", "b": "B", "c": "B", "failed": "C"}
BEFORE = {"a": [0.0, 0.5, 1.0], "b": [0.2, 0.2, 0.2], "c": [0.0, 0.0, 0.6], "failed": [1.0, 1.0]}
AFTER = {"a": [1.0, 1.0, 0.5], "b": [0.4, 0.2, 0.2], "c": [0.6, 0.6, 0.0]}


def expected(scores: dict[str, list[float]], n: int) -> float:
    bests = []
    for question in ("a", "b", "c"):
        subsets = list(combinations(scores[question], n))
        bests.append(sum(map(max, subsets)) / len(subsets))
    return sum(bests) / len(bests)


def test_means_over_questions() -> None:
    found = best_of.compare("run", 2, TOPIC_OF, BEFORE, AFTER, seed=1, bootstrap_samples=500)
    assert (found.samples, found.questions, found.topics, list(found.best)) == (3, 3, 2, ["1", "2", "3"])
    for name, change in found.best.items():
        sides = expected(BEFORE, int(name)), expected(AFTER, int(name))
        assert (change.before, change.after) == pytest.approx(sides)
        assert change.gain == pytest.approx(sides[1] - sides[0])
    # Resamples are A twice, B twice or both.
    one = found.best["1"]
    gain_of_a, gain_of_b = (2.5 - 1.5) / 3, (0.8 - 0.6 + 1.2 - 0.6) / 6
    assert (one.low, one.high) == pytest.approx(tuple(sorted((gain_of_a, gain_of_b))))


def test_nothing_to_compare() -> None:
    with pytest.raises(DataError, match="expected questions whose 3 answers all have a score before and after"):
        best_of.compare("run", 1, TOPIC_OF, {"a": [1.0, 0.0]}, AFTER, seed=1, bootstrap_samples=10)


def test_scores_leave_out_what_could_not_be_parsed() -> None:
    def labelled(*labels: str) -> Annotation:
        return Annotation("q", 0, tuple(Sentence(n, n + 1, label) for n, label in enumerate(labels)))

    answers = [
        labelled("no_fact", "no_hallucination", "contradictory", "unverifiable"),
        labelled("unparsed", "no_hallucination"),
        labelled("unparsed"),
        labelled(),
    ]
    assert best_of.scores(answers) == [0.5, 1.0]
