"""Near and far halves of clusters: on a line, and as properties of any points."""

from __future__ import annotations

import numpy as np
import pytest

from maskdpo_ray.evaluation.analyses import topic_neighbours
from maskdpo_ray.records import Question

CENTRES = np.array([[0.0], [100.0], [1000.0]])


def test_halves_on_a_line() -> None:
    """Around 0 lie four topics, around 100 three and around 1000 one: the middle ones go by their distances."""
    places = {"a1": 1, "a2": -2, "a9": 9, "a8": -8, "b3": 103, "b5": 95, "b7": 107, "c6": 1006}
    found = topic_neighbours.divide("line", list(places), np.array([[float(x)] for x in places.values()]), CENTRES)
    assert found.near == ("a1", "a2", "b3", "b5") and found.far == ("a9", "a8", "b7", "c6")
    assert (found.near_distance, found.far_distance, found.clusters) == ((1 + 2 + 3 + 5) / 4, (9 + 8 + 7 + 6) / 4, 3)


def test_a_middle_one_that_is_near() -> None:
    places = {"b3": 103, "b5": 95, "b7": 107, "c4": 1004}
    found = topic_neighbours.divide("line", list(places), np.array([[float(x)] for x in places.values()]), CENTRES)
    assert found.near == ("b3", "c4") and found.far == ("b5", "b7") and found.clusters == 2


@pytest.mark.parametrize("seed", range(20))
def test_properties_of_any_points(seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors, centres = generator.normal(size=(generator.integers(1, 60), 4)), generator.normal(size=(7, 4))
    clusters, distances = topic_neighbours.nearest(vectors, centres)
    near = topic_neighbours.is_near(clusters, distances)
    assert near.sum() - (~near).sum() in (0, 1)
    for vector, cluster, distance in zip(vectors, clusters, distances, strict=True):
        every = [float(((vector - centre) ** 2).sum()) ** 0.5 for centre in centres]
        assert every[cluster] == min(every) == pytest.approx(distance)
    for cluster in set(clusters):
        inside, outside = (distances[(clusters == cluster) & side] for side in (near, ~near))
        assert abs(len(inside) - len(outside)) <= 1
        assert not len(inside) or not len(outside) or inside.max() <= outside.min()


def test_random_halves() -> None:
    items = [f"topic {n}" for n in range(41)]
    found = topic_neighbours.divide_randomly(items, 1)
    assert (len(found.near), len(found.far), found.near_distance) == (21, 20, None)
    assert sorted(found.near + found.far) == sorted(items)
    assert found == topic_neighbours.divide_randomly(items, 1) != topic_neighbours.divide_randomly(items, 2)


def test_agreement_is_the_share_of_items_in_groups_of_one_name() -> None:
    halves = [
        topic_neighbours.Halves("one", ("a", "b"), ("c", "d"), None, None, None),
        topic_neighbours.Halves("two", ("a", "c"), ("b", "d"), None, None, None),
        topic_neighbours.Halves("three", ("c", "d"), ("a", "b"), None, None, None),
    ]
    found = topic_neighbours.compared("config.yaml", "topic", 3, halves)
    assert found.agreement == ((1.0, 0.5, 0.0), (0.5, 1.0, 0.5), (0.0, 0.5, 1.0))


def test_topics_are_listed_once() -> None:
    prompt = ({"role": "user", "content": "?"},)
    asked = [Question("1", "Rwanda", prompt), Question("2", "Peru", prompt), Question("3", " rwanda", prompt)]
    assert topic_neighbours.topics(asked) == ["Rwanda", "Peru"]
