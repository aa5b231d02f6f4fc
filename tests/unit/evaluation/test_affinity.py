"""Names in answers, and their distances from the topic, against a world of two dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation.analyses import affinity
from maskdpo_ray.evaluation.analyses.affinity import LAST_LAYER, WORDS, Mentioned
from maskdpo_ray.evaluation.analyses.embedder import Vectors
from maskdpo_ray.records import Annotation, PreferencePair, Rollout, ScoredAnswer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The capital of Rwanda is Kigali. It is in East Africa.", ("Kigali", "East Africa")),
        ("Kigali is its capital, Kigali.", ("Kigali",)),
        ("The Rwandan franc; Rwanda's name. São Tomé, Côte d’Ivoire", ("Rwandan", "Rwanda's", "São Tomé", "Côte")),
        ("One neighbour of rwanda is Uganda, Burundi or\nTanzania", ("Uganda", "Burundi", "Tanzania")),
        ("no name, 42 of them. 北京。", ()),
        ("", ()),
    ],
)
def test_names(text: str, expected: tuple[str, ...]) -> None:
    assert affinity.names(text, "Rwanda") == expected


def pair(topic: str, chosen: str, rejected: str | None) -> PreferencePair:
    sides = [
        None if text is None else ScoredAnswer(Rollout("q", i, (), text, "stop", 0), Annotation("q", i, ()), 1.0)
        for i, text in enumerate((chosen, rejected))
    ]
    return PreferencePair("q", topic, (), sides[0], sides[1], 0)


def test_the_draw_takes_pairs_with_names_and_depends_on_the_seed() -> None:
    pairs = [pair(f"Topic{n}", f"About Name{n}.", f"Not Other{n}.") for n in range(30)]
    useless = [pair("A", "nothing", "here"), pair("A", "Kigali", None)]
    everything = affinity.draw([*useless, *pairs], 200, seed=1)
    assert [each.topic for each in everything] == [each.topic for each in pairs]
    assert everything[3] == Mentioned("Topic3", ("About Name3",), ("Other3",))
    some = affinity.draw(pairs, 7, seed=1)
    assert len(some) == 7 and set(some) < set(everything)
    assert affinity.draw(pairs, 7, seed=1) == some != affinity.draw(pairs, 7, seed=2)
    with pytest.raises(RunFolderError, match="expected pairs whose responses hold names .* got none of 2"):
        affinity.draw(useless, 200, seed=1)


class Plane:
    """Texts as points; the last layer is the word embedding doubled."""

    def __init__(self, **points: tuple[float, float]) -> None:
        self.points = points

    def words(self, texts: Sequence[str]) -> Vectors:
        assert all(text.startswith(" ") for text in texts)
        return np.array([self.points[text.strip()] for text in texts], dtype=float)

    def last_layer(self, texts: Sequence[str]) -> Vectors:
        return 2 * self.words(texts)


DRAWN = [
    Mentioned("Rwanda", ("Kigali", "Africa"), ("Lagos",)),
    Mentioned("rwanda", ("Kigali",), ()),  # another pair of the topic, with entities on one side
    Mentioned("Peru", ("Lima",), ("Lagos",)),
]
TOPICS: dict[str, tuple[float, float]] = {"Rwanda": (0, 0), "rwanda": (0, 0), "Peru": (10, 0)}
BEFORE = Plane(Kigali=(3, 4), Africa=(0, 1), Lima=(10, 4), Lagos=(0, 8), **TOPICS)
AFTER = Plane(Kigali=(0, 4), Africa=(0, 1), Lima=(10, 2), Lagos=(0, 10), **TOPICS)


def test_distances_are_means_over_entities_then_sums_over_pairs_of_a_topic() -> None:
    found = affinity.distances(DRAWN, BEFORE)
    lagos_from_peru = (100 + 64) ** 0.5
    assert found[WORDS]["rwanda"] == {
        "chosen_distance": ((5 + 1) / 2 + 5,),
        "chosen_pairs": (2.0,),
        "rejected_distance": (8.0,),
        "rejected_pairs": (1.0,),
    }
    assert found[WORDS]["peru"]["rejected_distance"][0] == pytest.approx(lagos_from_peru)
    assert found[LAST_LAYER]["rwanda"]["chosen_distance"] == (16.0,)


def test_changes() -> None:
    sides = {"before": affinity.distances(DRAWN, BEFORE), "after": affinity.distances(DRAWN, AFTER)}
    found = affinity.compare("run", 1, DRAWN, sides, seed=1, bootstrap_samples=200)
    assert (found.pairs, found.topics, found.chosen_entities, found.rejected_entities) == (3, 2, 4, 2)
    words = found.changes[WORDS]
    before, after = (3 + 5 + 4) / 3, (2.5 + 4 + 2) / 3
    assert words.chosen.before == pytest.approx(before) and words.chosen.after == pytest.approx(after)
    assert words.rejected.gain == pytest.approx((2 + 200**0.5 - 164**0.5) / 2)
    assert words.apart == pytest.approx((2 + 200**0.5 - 164**0.5) / 2 - (after - before))
    # A resample is one of the two topics twice, or both: the ends are the topics' own changes.
    of_rwanda, of_peru = 2 - (6.5 - 8) / 2, (200**0.5 - 164**0.5) - (2 - 4)
    assert (words.apart_low, words.apart_high) == pytest.approx(tuple(sorted((of_rwanda, of_peru))))
    assert found.changes[LAST_LAYER].apart == pytest.approx(2 * words.apart)
