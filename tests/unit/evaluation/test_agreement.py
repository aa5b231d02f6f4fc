"""Agreement with labels by hand: closed forms, parts of sentences, intervals."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from maskdpo_ray.annotation.labelled_sets import OWN, PSILOQA, RAGTRUTH, Labelled, Layout
from maskdpo_ray.evaluation.agreement import Agreement, compare
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Annotation,
    Question,
    Rollout,
    Sentence,
)

FOUR = (NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE)


def agreement(pairs: list[tuple[str, str]], layout: Layout = OWN, topics: int = 1) -> Agreement:
    """Agreement on answers of one sentence, with their labels (by hand, by the annotator)."""
    answers, annotations = [], []
    for number, (by_hand, given) in enumerate(pairs):
        question = Question(f"q{number}", f"t{number % topics}", ({"role": "user", "content": "?"},))
        answers.append(Labelled(question, Rollout(question.id, 0, (), "It is.", "stop", 0), ((0, 6, by_hand),)))
        annotations.append(Annotation(question.id, 0, (Sentence(0, 6, given),)))
    return compare(layout, answers, annotations)


def values(found: dict) -> dict[str, float | None]:
    return {name: figure.value for name, figure in found.items()}


def test_cohens_own_form_of_two_classes() -> None:
    """20 both yes, 5 and 10 apart, 15 both no: po .7, pe .5 * .6 + .5 * .4 = .5, kappa .4."""
    found = agreement(
        [(NO_HALLUCINATION, NO_HALLUCINATION)] * 20
        + [(NO_HALLUCINATION, UNVERIFIABLE)] * 5
        + [(CONTRADICTORY, NO_FACT)] * 10
        + [(UNVERIFIABLE, CONTRADICTORY)] * 15,
        PSILOQA,
    )
    assert found.classes == ("correct", "hallucinated")
    assert found.confusion.tolist() == [[20, 5, 0], [10, 15, 0]]
    overall = values(found.overall(0, 100))
    assert overall == {
        "accuracy": pytest.approx(0.7),
        "balanced accuracy": pytest.approx((20 / 25 + 15 / 25) / 2),
        "kappa": pytest.approx(0.4),
    }
    wrong = values(found.of_class("hallucinated", 0, 100))
    assert wrong == {
        "precision": pytest.approx(15 / 20),
        "recall": pytest.approx(15 / 25),
        "f1": pytest.approx(30 / 45),
        "kappa": pytest.approx(0.4),
    }


def test_four_classes_against_a_count_by_hand() -> None:
    draw = random.Random(3)
    pairs = [(draw.choice(FOUR), draw.choice((*FOUR, UNPARSED))) for _ in range(300)]
    pairs += [(label, label) for label in FOUR for _ in range(40)]
    found, n = agreement(pairs), len(pairs)
    by_hand, given = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    chance = sum(by_hand[label] * given[label] for label in FOUR) / n**2
    overall = values(found.overall(0, 100))
    assert overall["kappa"] == pytest.approx((observed - chance) / (1 - chance))
    assert overall["accuracy"] == pytest.approx(observed)
    for label in FOUR:
        hit = sum(a == b == label for a, b in pairs)
        same = sum((a == label) == (b == label) for a, b in pairs) / n
        p, q = by_hand[label] / n, given[label] / n
        chance = p * q + (1 - p) * (1 - q)
        assert values(found.of_class(label, 0, 100)) == {
            "precision": pytest.approx(hit / given[label]),
            "recall": pytest.approx(hit / by_hand[label]),
            "f1": pytest.approx(2 * hit / (given[label] + by_hand[label])),
            "kappa": pytest.approx((same - chance) / (1 - chance)),
        }


def test_perfect_and_constant_annotators() -> None:
    both = [(NO_HALLUCINATION, NO_HALLUCINATION)] * 3 + [(CONTRADICTORY, CONTRADICTORY)] * 2
    perfect = agreement(both)
    assert values(perfect.overall(0, 100)) == {"accuracy": 1, "balanced accuracy": 1, "kappa": 1}
    assert values(perfect.of_class(NO_FACT, 0, 100)) == dict.fromkeys(("precision", "recall", "f1", "kappa"))
    constant = agreement([(label, NO_HALLUCINATION) for label, _ in both])
    overall = values(constant.overall(0, 100))
    assert overall == {"accuracy": 0.6, "balanced accuracy": 0.5, "kappa": pytest.approx(0)}
    nobody = agreement([(label, UNPARSED) for label, _ in both])
    assert values(nobody.overall(0, 100)) == {"accuracy": 0, "balanced accuracy": 0, "kappa": 0}


def test_sides_fold_the_classes() -> None:
    found = agreement([(NO_FACT, NO_HALLUCINATION), (CONTRADICTORY, UNVERIFIABLE), (UNVERIFIABLE, NO_FACT)], RAGTRUTH)
    assert found.classes == ("correct", CONTRADICTORY, UNVERIFIABLE)
    assert found.confusion.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert found.sides().confusion.tolist() == [[1, 0, 0], [1, 1, 0]]


def test_a_sentence_has_the_worst_label_of_its_parts() -> None:
    """Spans across two sentences count for both; a sentence without any is `unparsed`."""
    text = "One thing. Another thing. A third. A fourth."
    units = ((0, 10, NO_HALLUCINATION), (11, 25, CONTRADICTORY), (26, 34, NO_FACT), (35, 44, UNVERIFIABLE))
    question = Question("q", "t", ({"role": "user", "content": "?"},))
    spans = (Sentence(0, 3, NO_HALLUCINATION), Sentence(4, 14, UNVERIFIABLE), Sentence(15, 25, NO_HALLUCINATION))
    spans += (Sentence(35, 37, UNPARSED), Sentence(38, 44, NO_FACT))
    found = compare(OWN, [Labelled(question, Rollout("q", 0, (), text, "stop", 0), units)], [Annotation("q", 0, spans)])
    order = {label: number for number, label in enumerate((*found.classes, UNPARSED))}
    expected = [
        (NO_HALLUCINATION, UNVERIFIABLE), (CONTRADICTORY, UNVERIFIABLE), (NO_FACT, UNPARSED), (UNVERIFIABLE, UNPARSED)
    ]  # fmt: skip
    assert all(found.confusion[order[a], order[b]] == 1 for a, b in expected) and found.confusion.sum() == 4
    with pytest.raises(ValueError, match="expected labelled sentences"):
        compare(OWN, [Labelled(question, Rollout("q", 0, (), "", "stop", 0), ())], [Annotation("q", 0, ())])


def test_intervals_are_over_topics() -> None:
    """Spread over topics: of one there is none; of many, the accuracy's is close to the binomial one."""
    pairs = [(NO_HALLUCINATION, NO_HALLUCINATION if number % 5 else UNVERIFIABLE) for number in range(400)]
    alone = agreement(pairs).overall(0, 200)["accuracy"]
    assert (alone.value, alone.low, alone.high) == (0.8, None, None)
    many = agreement(pairs, topics=400).overall(0, 2000)["accuracy"]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert many.low == pytest.approx(0.8 - half, abs=0.01) and many.high == pytest.approx(0.8 + half, abs=0.01)
    assert agreement(pairs, topics=400).overall(0, 2000)["accuracy"] == many
