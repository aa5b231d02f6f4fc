"""Evaluation: closed forms, an independent count, and whether the intervals hold what they promise."""

import itertools
import json
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from maskdpo_ray.evaluation.intervals import compare
from maskdpo_ray.evaluation.metrics import METRICS, Evaluation, best_of_n, evaluate, f1_at_k, sizes
from maskdpo_ray.records import LABELS, Annotation, Block, Question, Rollout, Sentence, from_json, to_json

FACT, WRONG, UNSURE, CHAT, LOST = "no_hallucination", "contradictory", "unverifiable", "no_fact", "unparsed"


def questions(count, per_topic=1):
    asks = {"asks": ["capital", "continent"]}
    return [
        Question(f"q{i}", f"topic{i // per_topic}", ({"role": "user", "content": "?"},), facts=asks)
        for i in range(count)
    ]


def answer(question, replication, labels, kind=None, tokens=3, finish="stop"):
    sentences = tuple(Sentence(2 * i, 2 * i + 1, label, kind=kind) for i, label in enumerate(labels))
    return (
        Rollout(question.id, replication, tuple(range(tokens)), "x " * len(labels), finish, 0),
        Annotation(question.id, replication, sentences),
    )


def run(qs, answers, samples=200):
    return evaluate(qs, answers, seed=1, bootstrap_samples=samples)


def test_closed_form():
    qs = questions(2)
    result = run(
        qs,
        [
            answer(qs[0], 0, [CHAT, FACT, WRONG, UNSURE], kind="capital", tokens=10),  # score 1/2
            answer(qs[1], 0, [FACT, LOST], kind="capital", tokens=20, finish="length"),  # 1: unparsed is on no side
            answer(qs[0], 1, [CHAT, CHAT], tokens=30),  # 1, nothing checkable
            answer(qs[1], 1, [WRONG, WRONG, FACT], tokens=40),  # 1/3
        ],
    )
    expected = {
        "score": (3 / 4, 2 / 3),
        "recall": (2 / 4, 0),  # one of two facts of each question; the second replication's right one is of no kind
        "f1_at_k": ((2 * (1 / 3) * (1 / 2) / (5 / 6) + 2 * (1 / 2) / (3 / 2)) / 2, (0 + 2 * (1 / 6) / (5 / 6)) / 2),
        "pooled_score": (2 / 4, 1 / 3),
        "correct_facts": (1, 1 / 2),
        "incorrect_facts": (1, 1),
        "contradictory": (1 / 2, 1),
        "unverifiable": (1 / 2, 0),
        "no_fact": (1 / 2, 1),
        "unparsed": (1 / 2, 0),
        "sentences": (3, 5 / 2),
        "tokens": (15, 35),
        "thinking": (0, 0),
        "distinct_1": (1, 1),
        "distinct_2": (1, 1),
        "cut_off": (1 / 2, 0),
        "nothing_checkable": (0, 1 / 2),
        "abstained": (0, 0),
        "scored": (1, 1),
    }
    assert expected.keys() == METRICS.keys()
    for name, replications in expected.items():
        metric = result.metrics[name]
        assert metric.per_replication == pytest.approx(replications), name
        assert metric.mean == pytest.approx(statistics.mean(replications)), name
        assert metric.sd == pytest.approx(statistics.stdev(replications)), name
    assert {kind: (v.correct, v.incorrect) for kind, v in result.kinds.items()} == {
        "capital": (2 / 4, 2 / 4),
        "other": (1 / 4, 2 / 4),
    }
    assert result.topic_scores == pytest.approx({"topic0": 3 / 4, "topic1": 2 / 3})
    assert (result.questions, result.replications) == (2, 2)


@pytest.mark.parametrize(
    ("correct", "incorrect", "k", "expected"),
    [(0, 3, 5, 0), (0, 0, 5, 0), (5, 0, 5, 1), (9, 0, 5, 1), (1, 0, 5, 1 / 3), (5, 5, 5, 2 / 3), (2, 2, 4, 1 / 2)],
)
def test_f1_at_k(correct, incorrect, k, expected):
    assert f1_at_k(correct, incorrect, k) == pytest.approx(expected)


def test_k_is_given_or_what_the_question_asks_for():
    qs = questions(2)
    qs[1] = replace(qs[1], facts=None)
    answers = [answer(q, 0, [FACT], kind="capital") for q in qs]
    result = run(qs, answers).metrics  # the second question does not say what it asks for: it is in neither
    assert (result["recall"].mean, result["f1_at_k"].mean) == pytest.approx((1 / 2, 2 / 3))
    given = evaluate(qs, answers, f1_k=4, seed=1, bootstrap_samples=100).metrics
    assert (given["recall"].mean, given["f1_at_k"].mean) == pytest.approx((1 / 2, 2 / 5))
    silent = run(qs[1:], answers[1:]).metrics
    assert silent["recall"].mean is silent["f1_at_k"].mean is silent["recall"].low is None


def test_abstentions_are_counted_without_the_thinking():
    qs = questions(2)
    said = "I do not know."
    rows = [answer(q, 0, [CHAT]) for q in qs]
    thought = replace(rows[1][0], text=f"It is Kigali. {said}", blocks=(Block(0, 14, 0, 1),))
    rows = [(replace(rows[0][0], text=said), rows[0][1]), (thought, replace(rows[1][1], sentences=()))]
    assert run(qs, rows).metrics["abstained"].mean == 1
    rows[1] = (replace(thought, blocks=()), rows[1][1])
    assert run(qs, rows).metrics["abstained"].mean == 1 / 2


def test_repetition_lowers_distinct_n():
    qs = questions(2)
    rows = [answer(q, 0, [FACT]) for q in qs]
    repeated = (replace(rows[0][0], token_ids=(5, 6, 5, 6, 5, 6)), rows[0][1])
    result = run(qs, [repeated, (replace(rows[1][0], token_ids=(5, 6, 7, 8)), rows[1][1])]).metrics
    assert (result["distinct_1"].mean, result["distinct_2"].mean) == ((2 + 4) / 10, (2 + 3) / 8)


def test_best_of_is_the_mean_over_all_subsets():
    qs = questions(2)
    labels = {"q0": ([WRONG], [FACT, WRONG], [FACT]), "q1": ([FACT], [LOST], [WRONG])}  # the lost one has no score
    result = run(qs, [answer(q, r, labels[q.id][r]) for q in qs for r in range(3)])
    # q0: of the pairs of (0, 1/2, 1) the best are 1/2, 1, 1. q1: the only pair of (1, 0) has 1.
    assert result.best_of == pytest.approx({"1": 1 / 2, "2": (5 / 6 + 1) / 2, "3": 1})
    only_lost = run(qs, [answer(q, r, [LOST]) for q in qs for r in range(2)])
    assert only_lost.best_of == {"1": None, "2": None}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_best_of_n_is_unbiased(scores):
    for n in range(1, len(scores) + 1):
        subsets = [max(subset) for subset in itertools.combinations(scores, n)]
        assert best_of_n(scores, n) == pytest.approx(statistics.mean(subsets))
    for n in (0, len(scores) + 1):
        with pytest.raises(ValueError, match=f"expected n from 1 to {len(scores)}, got {n}"):
            best_of_n(scores, n)


@pytest.mark.parametrize(("samples", "expected"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_sizes_are_powers_of_two_and_all(samples, expected):
    assert sizes(samples) == expected


def test_answers_without_a_parsed_sentence_are_left_out_of_the_score_and_shown():
    qs = questions(2)
    result = run(qs, [answer(qs[0], 0, [FACT, WRONG]), answer(qs[1], 0, [])])
    assert result.metrics["score"].mean == 0.5
    assert result.metrics["scored"].mean == 0.5
    assert result.metrics["nothing_checkable"].mean == 0.5
    assert result.metrics["score"].sd is None
    nothing = run(qs, [answer(qs[0], 0, [LOST]), answer(qs[1], 0, [])])
    assert nothing.metrics["score"].mean is None
    assert nothing.metrics["score"].low is None
    assert compare(result, nothing, seed=1, bootstrap_samples=100).metrics["score"].gain is None


labelled = st.lists(st.lists(st.sampled_from(LABELS), max_size=6), min_size=6, max_size=6)


@given(labelled, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_agrees_with_a_plain_count_in_any_order_and_survives_json(texts, shuffle):
    qs = questions(3)
    answers = [answer(q, r, texts[3 * r + i]) for r in range(2) for i, q in enumerate(qs)]
    shuffle.shuffle(answers)
    result = run(qs, answers, samples=100)
    assert run(qs, answers[::-1], samples=100) == result  # to the last bit
    for replication in range(2):
        scores, facts, wrong = [], 0, 0
        for labels in texts[3 * replication : 3 * replication + 3]:
            parsed = [label for label in labels if label != LOST]
            if parsed:
                scores.append(sum(label in (CHAT, FACT) for label in parsed) / len(parsed))
            facts += labels.count(FACT)
            wrong += labels.count(WRONG) + labels.count(UNSURE)
        got = {name: metric.per_replication[replication] for name, metric in result.metrics.items()}
        assert got["score"] == (pytest.approx(statistics.mean(scores)) if scores else None)
        assert got["pooled_score"] == (pytest.approx(facts / (facts + wrong)) if facts + wrong else None)
        assert (got["correct_facts"], got["incorrect_facts"]) == pytest.approx((facts / 3, wrong / 3))
    assert from_json(Evaluation, json.loads(json.dumps(to_json(result), allow_nan=False))) == result


@given(labelled, labelled)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_gain_is_antisymmetric_and_zero_against_itself(one, other):
    qs = questions(6)
    a, b = (run(qs, [answer(q, 0, labels) for q, labels in zip(qs, texts, strict=True)], 100) for texts in (one, other))
    forth, back = (compare(x, y, seed=3, bootstrap_samples=100).metrics for x, y in ((a, b), (b, a)))
    for name in METRICS:
        if forth[name].low is not None:
            assert forth[name].low == pytest.approx(-back[name].high)
        if forth[name].gain is not None:
            assert forth[name].gain == pytest.approx(-back[name].gain)
    for change in compare(a, a, seed=3, bootstrap_samples=100).metrics.values():
        assert change.gain in (0, None) and change.low in (0, None) and change.high in (0, None)


def test_pairing_takes_out_what_topics_differ_in():
    qs = questions(20)
    before, after = (
        run(qs, [answer(q, 0, [FACT] * (i % 3 + extra) + [WRONG] * (3 - i % 3 - extra)) for i, q in enumerate(qs)])
        for extra in (0, 1)
    )
    change = compare(before, after, seed=1, bootstrap_samples=500).metrics["score"]
    assert (change.gain, change.low, change.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert before.metrics["score"].high - before.metrics["score"].low > 0.1  # unpaired, it is wide


def test_interval_holds_the_true_gain_about_95_times_in_100():
    # A topic's gain differs from topic to topic, so that resampling answers would give about 70%.
    rng, qs, held, runs = random.Random(5), questions(40), 0, 150
    for number in range(runs):
        after_rates = [rng.random() for _ in qs]  # mean 0.5; before 0.4: the true gain is 0.1

        def sample(rates, n=number):
            return evaluate(
                qs,
                [
                    answer(q, r, [FACT if rng.random() < rate else WRONG for _ in range(3)])
                    for q, rate in zip(qs, rates, strict=True)
                    for r in range(3)
                ],
                seed=n,
                bootstrap_samples=100,
            )

        change = compare(sample([0.4] * len(qs)), sample(after_rates), seed=number, bootstrap_samples=400).metrics[
            "score"
        ]
        held += change.low <= 0.1 <= change.high
    assert 0.89 <= held / runs <= 0.99


def test_topics_are_resampled_not_questions():
    # Four questions to each of two topics that differ: only 2 x all, 1 + 1, or all of the other can be drawn.
    qs = questions(8, per_topic=4)
    result = run(qs, [answer(q, 0, [FACT if q.topic == "topic0" else WRONG]) for q in qs], samples=500)
    assert (result.metrics["score"].low, result.metrics["score"].high) == (0, 1)


def test_one_topic_has_no_interval():
    qs = questions(3, per_topic=3)
    one, other = (run(qs, [answer(question, 0, [label]) for question in qs]) for label in (WRONG, FACT))
    assert (other.metrics["score"].mean, other.metrics["score"].low) == (1, None)
    change = compare(one, other, seed=1, bootstrap_samples=20).metrics["score"]
    assert (change.gain, change.low, change.high) == (1, None, None)


def test_a_topic_is_one_however_it_is_spelled():
    """Compared as when training and held-out topics are kept apart; shown in the first spelling."""
    spellings = ("Rwanda", "rwanda ", "Peru", "PERU")
    qs = [Question(f"q{i}", topic, ()) for i, topic in enumerate(spellings)]
    result = run(qs, [answer(q, 0, [FACT] if q.topic in spellings[:3] else [WRONG]) for q in qs])
    assert result.topic_scores == {"Peru": 0.5, "Rwanda": 1.0}
    assert list(result.topic_sums) == ["Peru", "Rwanda"]


def test_saying_less_is_visible():
    qs = questions(12)
    full = [[FACT, FACT, WRONG, WRONG, UNSURE] for _ in qs]
    short = [[label for label in labels if label == FACT] for labels in full]
    before, after = (
        run(qs, [answer(q, 0, labels, tokens=9 * len(labels)) for q, labels in zip(qs, texts, strict=True)])
        for texts in (full, short)
    )
    gain = compare(before, after, seed=1, bootstrap_samples=200).metrics
    assert gain["score"].gain == pytest.approx(0.6)
    assert gain["correct_facts"].gain == 0
    assert gain["incorrect_facts"].gain == -3
    assert gain["sentences"].gain == -3 and gain["sentences"].high < 0
    assert gain["tokens"].gain == -27


def test_same_seed_same_interval():
    qs = questions(9)
    answers = [answer(q, 0, [FACT] * (i % 4) + [WRONG]) for i, q in enumerate(qs)]
    assert run(qs, answers) == run(qs, answers)
    assert run(qs, answers) != evaluate(qs, answers, seed=2, bootstrap_samples=200)


def test_refuses_answers_that_are_not_one_per_question_and_replication():
    qs = questions(2)
    good = [answer(q, r, [FACT]) for q in qs for r in range(2)]
    run(qs, good)
    cases = {
        "'q1' has no answer in replication 1": good[:-1],
        "'q1' is answered twice in replication 1": [*good, good[-1]],
        "'q7', which is not evaluated": [*good, answer(Question("q7", "t", ()), 0, [FACT])],
        "got 0 answers": [],
        "comes with the annotation of": [*good[:-1], (good[-1][0], good[0][1])],
        "label 'right' is none of": [*good[:-1], answer(qs[1], 1, ["right"])],
        "got 5 answers": [*good, answer(qs[0], -1, [FACT])],
    }
    for message, answers in cases.items():
        with pytest.raises(ValueError, match=message):
            run(qs, answers)
    with pytest.raises(ValueError, match="2 with 1 ids"):
        run([qs[0], qs[0]], good)


def test_refuses_to_compare_different_topics():
    qs = questions(3)
    a, b = (run(part, [answer(q, 0, [FACT]) for q in part]) for part in (qs[:2], qs[1:]))
    with pytest.raises(ValueError, match="'topic0' is in one only"):
        compare(a, b, seed=1, bootstrap_samples=100)


def test_topics_that_one_side_left_out_count_on_neither():
    """The gain is that of evaluations of the common topics alone, and its two sides are theirs."""
    qs = questions(5)
    labels = ([FACT], [WRONG], [FACT, WRONG], [WRONG, WRONG, FACT], [FACT, FACT])
    parts = [range(4), range(1, 5)]
    sides = [
        evaluate(
            [qs[i] for i in part],
            [answer(qs[i], r, labels[(i + r + shift) % 5]) for i in part for r in range(2)],
            left_out={qs[i].topic: "gone" for i in range(5) if i not in part},
            seed=1,
            bootstrap_samples=200,
        )
        for shift, part in enumerate(parts)
    ]
    common = [
        run(
            [qs[i] for i in range(1, 4)],
            [answer(qs[i], r, labels[(i + r + shift) % 5]) for i in range(1, 4) for r in range(2)],
        )
        for shift in range(2)
    ]
    gain = compare(*sides, seed=1, bootstrap_samples=200)
    assert gain == compare(*common, seed=1, bootstrap_samples=200)
    assert gain.topics == 3
    assert gain.metrics["score"].before == common[0].metrics["score"].mean != sides[0].metrics["score"].mean
    assert from_json(Evaluation, json.loads(json.dumps(to_json(sides[0])))) == sides[0]
