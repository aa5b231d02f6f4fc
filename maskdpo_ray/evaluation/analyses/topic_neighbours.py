"""Training topics near to the held-out ones and far from them (Mask-DPO section 4.3, appendix B; tables 5 and 12).

The vectors of the held-out topics are centres of clusters. Each training topic belongs to the nearest centre by
Euclidean distance, and each cluster is divided into a near and a far half. All near halves make one group, all far
halves the other, on which the policy is trained alone. Table 12 does the same with questions in place of topics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.evaluation.analyses.embedder import Vectors
from maskdpo_ray.evaluation.intervals import topics_of
from maskdpo_ray.records import Question, Record

RANDOM = "random"
POLICY = "policy"


class Halves(Record):
    """The two groups by one embedding."""

    embedding: str
    near: tuple[str, ...]
    """Topics, or ids of questions, in the order of the training questions."""
    far: tuple[str, ...]
    near_distance: float | None
    """Mean distance from the centre of its cluster; None at random."""
    far_distance: float | None
    clusters: int | None
    """Held-out topics that are nearest to some training topic; None at random."""


class TopicNeighbours(Record):
    """The groups by several embeddings."""

    source: str
    """Config that the questions come from."""
    by: str
    """"topic" or "question"."""
    held_out: int
    """Number of centres."""
    halves: tuple[Halves, ...]
    agreement: tuple[tuple[float, ...], ...]
    """Share of the items that lie in groups of one name by embedding i and by embedding j; at random a half."""


def nearest(vectors: Vectors, centres: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(cluster, distance from its centre) of each of `vectors`, [items] both."""
    distances = np.linalg.norm(vectors[:, None, :] - centres[None, :, :], axis=-1)
    clusters = distances.argmin(axis=1)
    return clusters, distances[np.arange(len(vectors)), clusters]


def is_near(clusters: NDArray[np.int64], distances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether an item lies in the near half of its cluster, [items].

    The paper doesn't say where the middle one of an odd number goes, and most clusters of a small world are small. Here
    the middle ones of all clusters are divided by their distances too, so that both groups have the same size, or the
    near one has one more.
    """
    near = np.zeros(len(clusters), dtype=bool)
    middle: list[int] = []
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        members = members[np.argsort(distances[members], kind="stable")]
        half = len(members) // 2
        near[members[:half]] = True
        middle += members[half : len(members) - half].tolist()
    middle.sort(key=lambda item: (distances[item], item))
    near[middle[: (len(middle) + 1) // 2]] = True
    return near


def random_half(count: int, seed: int) -> NDArray[np.bool_]:
    """A random half of `count` items, [count]; of an odd number one more is in it."""
    near = np.zeros(count, dtype=bool)
    near[np.random.default_rng(seed).permutation(count)[: (count + 1) // 2]] = True
    return near


def divide(embedding: str, items: Sequence[str], vectors: Vectors, centres: Vectors) -> Halves:
    """The halves of `items` by their vectors."""
    clusters, distances = nearest(vectors, centres)
    near = is_near(clusters, distances)
    means = [float(distances[side].mean()) if side.any() else None for side in (near, ~near)]
    return _halves(embedding, items, near, means[0], means[1], len(np.unique(clusters)))


def divide_randomly(items: Sequence[str], seed: int) -> Halves:
    """Random halves of `items`."""
    return _halves(RANDOM, items, random_half(len(items), seed), None, None, None)


def _halves(
    embedding: str,
    items: Sequence[str],
    near: NDArray[np.bool_],
    near_distance: float | None,
    far_distance: float | None,
    clusters: int | None,
) -> Halves:
    sides = [tuple(item for item, own in zip(items, near, strict=True) if own == side) for side in (True, False)]
    return Halves(embedding, sides[0], sides[1], near_distance, far_distance, clusters)


def compared(source: str, by: str, held_out: int, halves: Sequence[Halves]) -> TopicNeighbours:
    """The groups by all embeddings, and how far they agree."""
    near = [set(each.near) for each in halves]
    count = len(halves[0].near) + len(halves[0].far)
    agreement = tuple(tuple(1 - len(one ^ other) / count for other in near) for one in near)
    return TopicNeighbours(source, by, held_out, tuple(halves), agreement)


def topics(questions: Sequence[Question]) -> list[str]:
    """The topics of questions, each once."""
    return list(dict.fromkeys(topics_of(questions).values()))
