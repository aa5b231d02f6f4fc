"""A second evaluator's statistics: closed forms, and the length penalty of Min et al. 2023."""

import json
from math import exp, inf

import pytest
from msgspec.structs import replace

from maskdpo_ray.evaluation.intervals import compare
from maskdpo_ray.evaluation.judged_metrics import LANGUAGE_METRICS, METRICS, JudgedEvaluation, evaluate, perplexity
from maskdpo_ray.records import JudgedFact, Judgement, Question, Surprisal, from_json, to_json

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
    assert from_json(JudgedEvaluation, json.loads(json.dumps(to_json(result)))) == result


def test_abstentions_are_counted_and_no_part_of_the_score():
    result = run("+", "-", "-", abstained=("q2",)).metrics
    assert (result["score"].mean, result["abstained"].mean) == (0.5, pytest.approx(1 / 3))
    nothing = run("", "", "", abstained=("q0", "q1", "q2")).metrics
    assert nothing["score"].mean is None and nothing["abstained"].mean == 1


def test_gain_is_after_less_before():
    gain = compare(run("-", "-", "+"), run("+", "+", "+"), seed=1, bootstrap_samples=100).metrics["score"]
    assert (gain.before, gain.after, gain.gain) == pytest.approx((1 / 3, 1, 2 / 3))


def read(*surprisals, evaluator=None, verdicts="+"):
    """Each answer's (nats, tokens), None where it is too long for the model; replications one after the other."""
    rows = []
    for i, each in enumerate(surprisals):
        replication, question = divmod(i, len(QUESTIONS))
        surprisal = None if each is None else Surprisal(*each)
        rows.append(replace(judgement(QUESTIONS[question], replication, verdicts), surprisal=surprisal))
    return evaluate(evaluator, QUESTIONS, rows, perplexity_model="lm", seed=1, bootstrap_samples=100)


def test_nats_per_token_in_closed_form():
    """A ratio of sums, a mean of ratios over the replications: long answers weigh more, empty ones nothing."""
    first, second = ((2.0, 1), (9.0, 9), (0.0, 0)), ((4.0, 2), (4.0, 2), None)
    result = read(*first, *second)
    assert result.metrics.keys() == LANGUAGE_METRICS.keys()
    nats = result.metrics["nats_per_token"]
    assert nats.per_replication == pytest.approx((11 / 10, 8 / 4))
    assert nats.mean == pytest.approx((11 / 10 + 8 / 4) / 2) and 1 <= nats.low < nats.mean < nats.high <= 2
    assert result.metrics["unread"].mean == pytest.approx(1 / 6)
    assert from_json(JudgedEvaluation, json.loads(json.dumps(to_json(result)))) == result


def test_a_gain_in_nats_is_the_logarithm_of_a_ratio_of_perplexities():
    sides = [read((n, 2), (n, 2), (n, 2)) for n in (4.0, 6.0)]
    gain = compare(*sides, seed=1, bootstrap_samples=100).metrics["nats_per_token"]
    assert (gain.before, gain.after) == (2, 3) and (gain.low, gain.high) == pytest.approx((1, 1))
    assert perplexity(gain.gain) == pytest.approx(perplexity(gain.after) / perplexity(gain.before))
    assert perplexity(1e6) == inf


def test_answers_of_which_none_is_read_have_no_perplexity():
    for surprisal in (None, (0.0, 0)):
        assert read(surprisal, surprisal, surprisal).metrics["nats_per_token"].mean is None


def test_a_language_model_changes_no_figure_of_the_evaluator():
    both, alone = read(*[(2.0, 1)] * 3, evaluator="factscore", verdicts="+-"), run("+-", "+-", "+-")
    assert both.metrics.keys() == METRICS.keys() | LANGUAGE_METRICS.keys()
    assert {name: both.metrics[name] for name in METRICS} == alone.metrics


def test_what_an_earlier_version_wrote_is_read():
    old = to_json(run("+", "-", "-"))
    del old["perplexity_model"]
    assert from_json(JudgedEvaluation, old) == run("+", "-", "-")
    for value in (old | {"perplexity_model": "lm"}, old | {"evaluator": None}):  # figures of another kind
        with pytest.raises(ValueError, match="field 'metrics': expected "):
            from_json(JudgedEvaluation, value)
    line = {"question_id": "q", "sample": 0, "facts": [], "abstained": True}
    assert from_json(Judgement, line) == Judgement("q", 0, (), True, None)
    line["surprisal"] = {"nats": 2.5, "num_tokens": 2}
    assert from_json(Judgement, line).surprisal == Surprisal(2.5, 2)


def test_evaluations_by_others_are_not_compared():
    for other in (read((1.0, 1), (1.0, 1), (1.0, 1)), replace(run("+", "+", "+"), evaluator="short_answer")):
        with pytest.raises(ValueError, match="are by different judges: \\('factscore', None\\) and "):
            compare(run("+", "+", "+"), other, seed=1, bootstrap_samples=100)


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
