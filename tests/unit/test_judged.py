"""A second evaluator's statistics: closed forms, and the length penalty of Min et al. 2023."""

import json
from math import exp

import pytest

from maskdpo_ray.judged import METRICS, JudgedEvaluation, compare, evaluate
from maskdpo_ray.records import JudgedFact, Judgement, Question

QUESTIONS = [Question(f"q{i}", f"topic{i}", ({"role": "user", "content": "?"},)) for i in range(3)]
VERDICTS = {"+": "supported", "-": "unsupported", "o": "irrelevant", "?": "unparsed"}


def judgement(question, sample, verdicts, abstained=False):
    return Judgement(question.id, sample, tuple(JudgedFact("f", VERDICTS[v]) for v in verdicts), abstained)


def run(*verdicts, abstained=()):
    rows = [judgement(q, 0, v, q.id in abstained) for q, v in zip(QUESTIONS, verdicts, strict=True)]
    return evaluate("factscore", QUESTIONS, rows, seed=1, bootstrap_samples=100)


def test_closed_form():
    result = run("++-o?", "+" * 10 + "-" * 5, "")
    expected = {
        "score": (2 / 3 + 10 / 15) / 2,
        "penalized_score": (2 / 3 * exp(1 - 10 / 3) + 10 / 15) / 2,  # 15 facts are enough
        "pooled_score": 12 / 18,
        "correct_facts": 12 / 3,
        "incorrect_facts": 6 / 3,
        "irrelevant": 1 / 3,
        "unparsed": 1 / 3,
        "abstained": 0,
        "scored": 2 / 3,
    }
    assert {name: value.mean for name, value in result.metrics.items()} == pytest.approx(expected)
    assert expected.keys() == METRICS.keys()
    assert JudgedEvaluation.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_abstentions_are_counted_and_no_part_of_the_score():
    result = run("+", "-", "-", abstained=("q2",)).metrics
    assert (result["score"].mean, result["abstained"].mean) == (0.5, pytest.approx(1 / 3))
    nothing = run("", "", "", abstained=("q0", "q1", "q2")).metrics
    assert nothing["score"].mean is None and nothing["abstained"].mean == 1


def test_gain_is_after_less_before():
    gain = compare(run("-", "-", "+"), run("+", "+", "+"), seed=1, bootstrap_samples=100).metrics["score"]
    assert (gain.before, gain.after, gain.gain) == pytest.approx((1 / 3, 1, 2 / 3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([judgement(q, 0, "+") for q in QUESTIONS[:2]] + [judgement(QUESTIONS[0], 1, "+")], "'q2' has no answer"),
        ([judgement(Question("x", "x", ()), 0, "+")], "'x', which is not evaluated"),
    ],
)
def test_refuses_judgements_that_are_not_one_per_question_and_replication(rows, message):
    with pytest.raises(ValueError, match=message):
        evaluate("factscore", QUESTIONS, rows, seed=1, bootstrap_samples=100)
