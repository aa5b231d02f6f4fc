"""Best of N before and after training (Mask-DPO table 6): does training only make likely what could be sampled before?

If it did, the best of many answers would be as good before as after. The paper finds that the difference stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.intervals import Change, Ratios, TopicSums
from maskdpo_ray.evaluation.metrics import best_of_n, sizes
from maskdpo_ray.records import CORRECT, UNPARSED, Annotation, Record


class BestOf(Record):
    """Expected best score of N answers to a held-out question."""

    run: str
    after: int
    """Version of the trained policy."""
    samples: int
    """Answers to each question."""
    questions: int
    """Questions all of whose answers have a score, before and after."""
    topics: int
    bootstrap_samples: int
    best: dict[str, Change]
    """N, as text -> mean over the questions, before and after, and the interval of the gain over topics."""


def scores(annotations: Iterable[Annotation]) -> list[float]:
    """Scores (Mask-DPO section 2.2) of the answers that have one."""
    found = []
    for annotation in annotations:
        labels = [sentence.label for sentence in annotation.sentences if sentence.label != UNPARSED]
        if labels:
            found.append(sum(label in CORRECT for label in labels) / len(labels))
    return found


def compare(
    run: str,
    after: int,
    topic_of: Mapping[str, str],
    before: Mapping[str, Sequence[float]],
    trained: Mapping[str, Sequence[float]],
    *,
    seed: int,
    bootstrap_samples: int,
) -> BestOf:
    """Best of N of two policies.

    Args:
        topic_of: question id -> topic.
        before: question id -> scores of the start's answers.
        trained: the same of the trained policy.

    Raises DataError when no question has all its scores on both sides.
    """
    samples = max((len(each) for side in (before, trained) for each in side.values()), default=0)
    whole = [name for name in topic_of if len(before.get(name, ())) == samples == len(trained.get(name, ()))]
    if not samples or not whole:
        raise DataError(f"expected questions whose {samples} answers all have a score before and after, got none")
    counts = {str(n): n for n in sizes(samples)}
    ratios = Ratios((*counts, "questions"), {name: (name, "questions") for name in counts})

    def sums(side: Mapping[str, Sequence[float]]) -> TopicSums:
        return ratios.add_up(
            (topic_of[name], {n: best_of_n(side[name], count) for n, count in counts.items()} | {"questions": 1.0})
            for name in whole
        )

    sides = sums(before), sums(trained)
    best = ratios.changes(*sides, seed=seed, bootstrap_samples=bootstrap_samples)
    return BestOf(run, after, samples, len(whole), len(sides[0]), bootstrap_samples, best)
