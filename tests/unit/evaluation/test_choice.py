"""The best policy: says neither less nor more wrong than policy 0, and is a function of development figures alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdpo_ray.evaluation.choice import Choice, choose
from maskdpo_ray.evaluation.metrics import Evaluation, KindOfFact, evaluate
from maskdpo_ray.records import Annotation, Question, Rollout, Sentence, from_json, to_json

RIGHT, WRONG, LOST = "no_hallucination", "contradictory", "unparsed"
KINDS = ("capital", "continent", "language", "currency", "neighbour")
DRAWS = {"seed": 1, "bootstrap_samples": 200}
TOPICS = 12


def policy(*said: str, others: str | None = None, asks: bool = True) -> Evaluation:
    """Answers to twelve questions, in each of them these labels, of one kind after the other; "" states nothing.

    `others`: labels of the second half of the questions where they differ, one letter each ("r", "w", " ").
    """
    facts = {"asks": [*KINDS]} if asks else None
    questions = [Question(f"q{i}", f"t{i}", ({"role": "user", "content": "?"},), facts=facts) for i in range(TOPICS)]
    letters = {"r": RIGHT, "w": WRONG, " ": ""}
    rows = []
    for number, question in enumerate(questions):
        labels = said if others is None or number < TOPICS // 2 else [letters[letter] for letter in others]
        sentences = tuple(
            Sentence(i, i + 1, label, kind=KINDS[i % 5] if asks else None) for i, label in enumerate(labels) if label
        )
        rows.append((Rollout(question.id, 0, (1,), "x" * 10, "stop", 0), Annotation(question.id, 0, sentences)))
    return evaluate(questions, rows, **DRAWS)


def best(*policies: Evaluation) -> Choice:
    return choose("best", len(policies) - 1, policies, **DRAWS)


START = (RIGHT, RIGHT, RIGHT, WRONG, WRONG)


def test_more_of_it_right_is_better() -> None:
    found = best(policy(*START), policy(RIGHT, RIGHT, RIGHT, RIGHT, WRONG), policy(*START))
    assert (found.version, found.best, found.told_by) == (1, 1, "recall")
    first = found.candidates[0]
    assert (first.score, first.told, first.balance) == pytest.approx((3 / 5, 3 / 5, 3 / 5))
    assert found.candidates[1].balance == pytest.approx(4 / 5)


def test_leaving_out_only_what_is_wrong_is_better() -> None:
    found = best(policy(*START), policy(RIGHT, RIGHT, RIGHT))
    assert found.version == 1 and found.candidates[1].balance == pytest.approx(2 * 1 * 0.6 / 1.6)


def test_saying_less_does_not_win_however_right() -> None:
    found = best(policy(*START), policy(RIGHT))  # score .6 -> 1, recall .6 -> .2
    assert found.version == 0 and found.candidates[1].fell == ("recall",)


def test_a_higher_score_alone_does_not_decide() -> None:
    """A recall that fell within noise is no bar, but it counts."""
    silent = policy(
        RIGHT, RIGHT, RIGHT, RIGHT, others="r"
    )  # score 1; recall .8 on half of the topics, .2 on the others
    found = best(policy(*START), silent, policy(RIGHT, RIGHT, RIGHT, RIGHT, WRONG))
    assert found.version == 2 and found.candidates[1].fell == ()
    assert found.candidates[1].score > found.candidates[2].score


def test_guessing_more_does_not_win_either() -> None:
    start = policy(RIGHT, RIGHT, WRONG)
    found = best(start, policy(RIGHT, RIGHT, RIGHT, WRONG, WRONG, WRONG, WRONG, WRONG))  # recall rises, score falls
    assert found.version == 0 and found.candidates[1].fell == ("score",)
    assert found.candidates[1].told > found.candidates[0].told


def test_without_facts_asked_for_correct_facts_are_the_measure() -> None:
    start = policy(*START, asks=False)
    found = best(start, policy(RIGHT, asks=False), policy(RIGHT, RIGHT, RIGHT, asks=False))
    assert (found.version, found.told_by) == (2, "correct_facts")
    assert [each.told for each in found.candidates] == pytest.approx([1, 1 / 3, 1])
    assert found.candidates[1].fell == ("correct_facts",)
    more = policy(*[RIGHT] * 6, *[WRONG] * 4, asks=False)  # twice as long, as often right
    assert best(start, more).version == 0


def test_a_policy_that_cannot_be_scored_is_not_chosen() -> None:
    lost = policy(LOST, LOST)
    assert best(policy(*START), lost).version == 0
    assert best(lost, policy(*START)).version == 1
    assert best(lost, lost).version == 0


def test_among_equals_the_earliest() -> None:
    better = policy(RIGHT, RIGHT, RIGHT, RIGHT, WRONG)
    assert best(policy(*START), better, better).version == 1


def test_the_last_is_kept_whatever_is_best() -> None:
    found = choose("last", 1, [policy(*START), policy(WRONG)], **DRAWS)
    assert (found.version, found.best) == (1, 0)
    assert choose("last", 3, [], **DRAWS) == Choice("last", 3, None, None, ())
    with pytest.raises(ValueError, match="expected evaluations on development topics"):
        choose("best", 3, [], **DRAWS)


def test_a_policy_that_gives_up_a_kind_of_fact_is_not_chosen_where_kinds_are_kept() -> None:
    """The last kind, always wrong, is no longer stated on half of the topics: a better score at the same recall."""
    silent = policy(*START, others="rrrw")
    policies = [policy(*START), silent]
    for keep_kinds, version, rarer in ((None, 1, ()), (0.5, 1, ()), (0.51, 0, ("neighbour",))):
        found = choose("best", 1, policies, **DRAWS, keep_kinds=keep_kinds)
        assert (found.version, found.candidates[1].rarer) == (version, rarer)


def test_kinds_that_were_hardly_stated_and_facts_of_none_are_not_watched() -> None:
    rare = policy(RIGHT, WRONG)
    rare.kinds["capital"] = KindOfFact(0.09, 0.0)
    rare.kinds["other"] = KindOfFact(0.0, 2.0)
    found = choose("best", 1, [rare, policy("", RIGHT)], **DRAWS, keep_kinds=1.0)
    assert found.candidates[1].rarer == ()


answers = st.lists(st.sampled_from([RIGHT, WRONG, ""]), min_size=5, max_size=5)


@given(st.lists(answers, min_size=2, max_size=4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_properties(said: list[list[str]]) -> None:
    """A later policy never changes what was chosen but by winning; the winner tells and scores no less beyond noise."""
    policies = [policy(*each) for each in said]
    choices = [best(*policies[: n + 1]) for n in range(len(policies))]
    for newest, found in enumerate(choices):
        assert found.version in (newest, choices[newest - 1].version)
        winner = found.candidates[found.version]
        assert not winner.fell
        assert all(winner.balance >= each.balance for each in found.candidates if not each.fell)
        assert from_json(Choice, to_json(found)) == found
        # All answers alike: the intervals have no width, so nothing may have fallen at all.
        first = found.candidates[0]
        for now, before in ((winner.score, first.score), (winner.told, first.told)):
            assert before is None or now is None or now >= before - 1e-12
