"""Means over the seeds of a method, and differences between two methods, with bootstrap intervals.

Runs with one seed are a pair: they asked the same held-out topics, and began with the same answers. So each resample
draws topics once for all runs, and seeds once for both methods. Intervals over topics say what other questions could
change; those over topics and seeds also what other seeds could, as far as a few seeds can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.evaluation.intervals import Draws, Measured, interval, refuse_other_topics
from maskdpo_ray.records import Record

_SEEDS = 1
"""Makes the draws of seeds others than those of topics."""


class Interval(Record):
    """95% of the resamples; None where there is only one to draw from."""

    low: float | None
    high: float | None

    @property
    def excludes_0(self) -> bool:
        """Whether all of it lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class AcrossSeeds(Record):
    """A metric of a method over its seeds, or the difference between two methods."""

    mean: float | None
    """Mean over the seeds; None where it is not defined for one of them."""
    sd: float | None
    """Standard deviation over the seeds (n - 1); None of one."""
    per_seed: dict[str, float | None]
    """Seed, as text -> the metric, or its difference."""
    over_topics: Interval
    """Interval of the mean, seeds as they are."""
    over_topics_and_seeds: Interval
    of_each: dict[str, Interval] = {}
    """Seed, as text -> interval over topics of its metric, or of its difference."""


@dataclass(frozen=True)
class Comparison:
    """Evaluations of several methods on the same topics, by seed."""

    draws: Mapping[str, Mapping[int, Draws]]
    """Method -> seed -> metrics."""
    topics: int
    """Topics that all evaluations have."""
    seed: int
    samples: int

    @classmethod
    def of(cls, evaluations: Mapping[str, Mapping[int, Measured]], *, seed: int, bootstrap_samples: int) -> Comparison:
        """Resample all evaluations alike: method -> seed -> evaluation.

        Topics that one of them left out count in none. Raises ValueError when that leaves none, when the topics differ
        otherwise, or when the judges do.
        """
        every = [each for by_seed in evaluations.values() for each in by_seed.values()]
        for each in every:
            if each.judges != every[0].judges:
                raise ValueError(f"the evaluations are by different judges: {every[0].judges} and {each.judges}")
            refuse_other_topics(*([*side.topic_sums, *side.left_out] for side in (every[0], each)))
        common = set.intersection(*(set(each.topic_sums) for each in every)) if every else set()
        if every and not common:
            raise ValueError("the evaluations have no topic in common, as questions of all failed")
        options = {"seed": seed, "bootstrap_samples": bootstrap_samples}
        draws = {
            method: {
                number: each.ratios.draws({topic: each.topic_sums[topic] for topic in common}, **options)
                for number, each in by_seed.items()
            }
            for method, by_seed in evaluations.items()
        }
        return cls(draws, len(common), seed, bootstrap_samples)

    def mean(self, method: str, metric: str) -> AcrossSeeds:
        """A metric of a method."""
        draws = self.draws[method]
        return self._across(
            {seed: each.values[metric] for seed, each in draws.items()},
            {seed: each.resampled[metric] for seed, each in draws.items()},
        )

    def difference(self, method: str, baseline: str, metric: str) -> AcrossSeeds:
        """A method minus the baseline, over the seeds that both have."""
        sides = [self.draws[name] for name in (method, baseline)]
        seeds = [seed for seed in sides[0] if seed in sides[1]]
        values: dict[int, float | None] = {}
        for seed in seeds:
            one, other = (side[seed].values[metric] for side in sides)
            values[seed] = None if one is None or other is None else one - other
        resampled = {seed: sides[0][seed].resampled[metric] - sides[1][seed].resampled[metric] for seed in seeds}
        return self._across(values, resampled)

    def _across(self, values: Mapping[int, float | None], resampled: Mapping[int, NDArray[np.float64]]) -> AcrossSeeds:
        known = [value for value in values.values() if value is not None]
        is_whole = bool(known) and len(known) == len(values)
        nothing = Interval(None, None)
        over_topics = both = nothing
        if is_whole:
            matrix = np.array(list(resampled.values()))
            over_topics = Interval(*interval(matrix.mean(axis=0), self.topics))
            # A single seed can only be drawn again: nothing can be said about others.
            both = Interval(*interval(self._of_drawn_seeds(matrix), self.topics)) if len(known) > 1 else nothing
        return AcrossSeeds(
            float(np.mean(known)) if is_whole else None,
            float(np.std(known, ddof=1)) if is_whole and len(known) > 1 else None,
            {str(seed): value for seed, value in values.items()},
            over_topics,
            both,
            {str(seed): Interval(*interval(values, self.topics)) for seed, values in resampled.items()},
        )

    def _of_drawn_seeds(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """[seeds, samples] -> [samples]: means over seeds that are drawn with replacement for each sample."""
        count = len(matrix)
        generator = np.random.default_rng([self.seed, _SEEDS])
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=self.samples)
        # A seed that is not drawn takes no part, should its metric be undefined on these topics.
        return np.where(drawn.T > 0, drawn.T * matrix, 0.0).sum(axis=0) / count
