"""Means and differences over seeds, against a computation of its own that follows each resample one by one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from maskdpo_ray.evaluation.across_seeds import Comparison, Interval
from maskdpo_ray.evaluation.intervals import Ratios

RATIOS = Ratios(("right", "all"), {"score": ("right", "all")})
TOPICS = [f"topic {number}" for number in range(12)]
SAMPLES = 400


class Measured:
    """An evaluation with these sums."""

    ratios, judges = RATIOS, ("a judge",)

    def __init__(
        self, sums: dict[str, dict[str, tuple[float, ...]]], left_out: Mapping[str, str] | None = None
    ) -> None:
        self.topic_sums, self.left_out = sums, left_out or {}


def measured(seed: str, shift: float = 0.0, replications: int = 2) -> Measured:
    rng = random.Random(seed)
    return Measured(
        {
            topic: {
                "right": tuple(rng.uniform(1, 4) + shift for _ in range(replications)),
                "all": tuple(rng.uniform(5, 7) for _ in range(replications)),
            }
            for topic in TOPICS
        }
    )


@pytest.fixture(scope="module")
def arms() -> dict[str, dict[int, Measured]]:
    return {
        "masked": {seed: measured(f"masked {seed}", 0.5) for seed in (1, 2, 3)},
        "unmasked": {seed: measured(f"unmasked {seed}") for seed in (1, 2, 3)},
    }


def score(of: Measured, counts: Mapping[str, int]) -> float:
    """Score of topics with their multiplicities, the mean over replications, by plain sums."""
    per_replication = []
    for replication in range(2):
        right, every = (
            sum(count * of.topic_sums[topic][name][replication] for topic, count in counts.items())
            for name in ("right", "all")
        )
        per_replication.append(right / every)
    return sum(per_replication) / 2


def percentiles(values: list[float]) -> tuple[float, float]:
    """95% of the values: the percentiles by linear interpolation, written out."""
    ordered = sorted(values)
    found = []
    for share in (0.025, 0.975):
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        found.append(ordered[below] + (place - below) * (ordered[above] - ordered[below]))
    return found[0], found[1]


def test_difference_follows_each_resample(arms: dict[str, Any]) -> None:
    """Topics are drawn once for all runs, seeds once for both methods."""
    found = Comparison.of(arms, seed=7, bootstrap_samples=SAMPLES).difference("masked", "unmasked", "score")
    plain = dict.fromkeys(TOPICS, 1)
    per_seed = {seed: score(arms["masked"][seed], plain) - score(arms["unmasked"][seed], plain) for seed in (1, 2, 3)}
    assert found.per_seed == pytest.approx({str(seed): value for seed, value in per_seed.items()})
    assert found.mean == pytest.approx(sum(per_seed.values()) / 3)
    drawn_topics = np.random.default_rng(7).multinomial(12, [1 / 12] * 12, size=SAMPLES)
    drawn_seeds = np.random.default_rng([7, 1]).multinomial(3, [1 / 3] * 3, size=SAMPLES)
    over_topics, both = [], []
    for topics, seeds in zip(drawn_topics, drawn_seeds, strict=True):
        counts = dict(zip(sorted(TOPICS), map(int, topics), strict=True))
        differences = [
            score(arms["masked"][seed], counts) - score(arms["unmasked"][seed], counts) for seed in (1, 2, 3)
        ]
        over_topics.append(sum(differences) / 3)
        both.append(sum(int(n) * each for n, each in zip(seeds, differences, strict=True)) / 3)
    assert (found.over_topics.low, found.over_topics.high) == pytest.approx(percentiles(over_topics))
    assert (found.over_topics_and_seeds.low, found.over_topics_and_seeds.high) == pytest.approx(percentiles(both))


def test_interval_is_that_of_draws_of_others(arms: dict[str, Any]) -> None:
    """Another generator, drawing topics and seeds by name, comes to about the same ends."""
    found = Comparison.of(arms, seed=1, bootstrap_samples=4000).difference("masked", "unmasked", "score")
    rng, drawn = random.Random(0), []
    for _ in range(4000):
        counts = Counter(rng.choices(TOPICS, k=12))
        seeds = rng.choices((1, 2, 3), k=3)
        drawn.append(sum(score(arms["masked"][s], counts) - score(arms["unmasked"][s], counts) for s in seeds) / 3)
    ends = percentiles(drawn)
    width = ends[1] - ends[0]
    assert found.over_topics_and_seeds.low == pytest.approx(ends[0], abs=0.06 * width)
    assert found.over_topics_and_seeds.high == pytest.approx(ends[1], abs=0.06 * width)


def test_pairing_takes_out_what_both_have_in_common() -> None:
    """Two methods that differ by the same amount in each topic and seed: no draw changes the difference."""
    sums = {topic: {"right": (float(i), float(i)), "all": (4.0, 4.0)} for i, topic in enumerate(TOPICS)}
    more = {topic: {"right": tuple(v + 1 for v in each["right"]), "all": each["all"]} for topic, each in sums.items()}
    arms = {"a": {1: Measured(more), 2: Measured(more)}, "b": {1: Measured(sums), 2: Measured(sums)}}
    comparison = Comparison.of(arms, seed=1, bootstrap_samples=200)
    found = comparison.difference("a", "b", "score")
    for interval in (found.over_topics, found.over_topics_and_seeds):
        assert (interval.low, interval.high) == pytest.approx((0.25, 0.25)) and interval.excludes_0
    assert found.sd == pytest.approx(0.0)
    mean = comparison.mean("a", "score")
    assert mean.mean == pytest.approx(6.5 / 4) and mean.over_topics.low < mean.mean < mean.over_topics.high


def test_seeds_that_one_lacks_are_left_out(arms: dict[str, Any]) -> None:
    some = {"masked": arms["masked"], "unmasked": {seed: arms["unmasked"][seed] for seed in (1, 3)}}
    comparison = Comparison.of(some, seed=1, bootstrap_samples=200)
    assert list(comparison.difference("masked", "unmasked", "score").per_seed) == ["1", "3"]
    assert list(comparison.mean("masked", "score").per_seed) == ["1", "2", "3"]
    one = Comparison.of({"masked": {2: arms["masked"][2]}}, seed=1, bootstrap_samples=200).mean("masked", "score")
    assert one.sd is None and one.over_topics_and_seeds == Interval(None, None) and one.over_topics.low is not None


def test_topics_that_one_left_out_count_in_none(arms: dict[str, Any]) -> None:
    whole = arms["masked"][1]
    part = Measured({t: s for t, s in whole.topic_sums.items() if t != "topic 3"}, {"topic 3": "no answer"})
    comparison = Comparison.of({"a": {1: whole}, "b": {1: part}}, seed=1, bootstrap_samples=100)
    assert comparison.topics == 11 and comparison.difference("a", "b", "score").mean == 0.0
    missing = Measured(part.topic_sums)
    with pytest.raises(ValueError, match="different topics: 'topic 3' is in one only"):
        Comparison.of({"a": {1: whole}, "b": {1: missing}}, seed=1, bootstrap_samples=100)


def test_other_judges_are_refused(arms: dict[str, Any]) -> None:
    other = measured("x")
    other.judges = ("another",)
    with pytest.raises(ValueError, match="by different judges"):
        Comparison.of({"a": arms["masked"], "b": {1: other}}, seed=1, bootstrap_samples=100)
