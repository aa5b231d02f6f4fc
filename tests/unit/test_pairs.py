"""Preference pairs: score, choice, filters, mixture; the order of the answers makes no difference."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.pairs import STRATEGIES, DropReason, best_worst, mixture, score, scored, unfit
from maskdpo_ray.records import (
    CORRECT,
    INCORRECT,
    LABELS,
    Annotation,
    PreferencePair,
    Question,
    Rollout,
    Sentence,
)

QUESTION = Question("rwanda/five", "Rwanda", ({"role": "user", "content": "Give five facts about Rwanda."},))
LETTERS = {
    "n": "no_fact",
    "+": "no_hallucination",
    "-": "contradictory",
    "?": "unverifiable",
    "x": "unparsed",
}


def annotation(labels, sample=0):
    """One sentence per letter of `labels`."""
    sentences = (Sentence(3 * i, 3 * i + 2, LETTERS[letter]) for i, letter in enumerate(labels))
    return Annotation(QUESTION.id, sample, tuple(sentences))


def answer(labels, sample, text=None, finish_reason="stop"):
    text = f"answer {sample}" if text is None else text
    rollout = Rollout(QUESTION.id, sample, (sample, 2), text, finish_reason, 3)
    return scored(rollout, annotation(labels, sample))


def answers(*labels, cut=(), texts=None):
    """Answers numbered from 0; `cut` are the samples that reached the length limit."""
    texts = texts or [None] * len(labels)
    return [
        answer(each, sample, texts[sample], "length" if sample in cut else "stop")
        for sample, each in enumerate(labels)
    ]


def samples(outcome):
    assert isinstance(outcome, PreferencePair), outcome
    return outcome.chosen.rollout.sample, outcome.rejected.rollout.sample


@pytest.mark.parametrize(
    "labels, expected",
    [
        ("+", 1.0), ("n", 1.0), ("-", 0.0), ("?", 0.0), ("+n-?", 0.5), ("+--", 1 / 3), ("+x", 1.0),
        ("xx-+x+", 2 / 3),
    ],
)
def test_score_is_the_share_of_correct_among_parsed(labels, expected):
    assert score(annotation(labels)) == expected


@pytest.mark.parametrize("labels", ["", "x", "xxx"])
def test_score_of_nothing_parsed_is_none(labels):
    assert score(annotation(labels)) is None


def test_scored_refuses_the_annotation_of_another_answer():
    rollout = Rollout(QUESTION.id, 1, (2,), "text", "stop", 0)
    assert scored(rollout, annotation("+-", 1)).score == 0.5
    message = "annotation of 'rwanda/five' sample 2, expected 'rwanda/five' sample 1"
    with pytest.raises(ValueError, match=message):
        scored(rollout, annotation("+-", 2))


def test_pair_is_the_highest_and_the_lowest_score():
    items = answers("+-", "++-", "+--", "-?+?+", "+++--")
    pair = best_worst(QUESTION, [5, 6, 7], items)
    assert pair == PreferencePair(QUESTION.id, "Rwanda", (5, 6, 7), items[1], items[2], 3)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (("---", "+-", "++--"), (1, 0)),
        (("++", "-", "+", "--"), (0, 1)),
        (("+-", "++", "n+", "-", "?"), (1, 3)),
    ],
)
def test_among_equal_scores_the_lowest_sample_is_taken(labels, expected):
    items = answers(*labels)
    assert samples(best_worst(QUESTION, (), items)) == expected
    assert samples(best_worst(QUESTION, (), items[::-1])) == expected


def test_answers_to_another_question_are_refused():
    other = Question("burundi/five", "Burundi", QUESTION.prompt)
    with pytest.raises(ValueError, match="answer to 'rwanda/five', expected 'burundi/five'"):
        best_worst(other, (), answers("++", "--"))


def test_answers_of_two_policies_are_refused():
    first, second = answers("++", "--")
    newer = dataclasses.replace(second, rollout=dataclasses.replace(second.rollout, policy_version=4))
    with pytest.raises(ValueError, match=r"policy versions \[3, 4\], expected one"):
        best_worst(QUESTION, (), [first, newer])


@pytest.mark.parametrize(
    "items, reason",
    [
        (answers(), DropReason.TOO_FEW_ANSWERS),
        (answers("+-"), DropReason.TOO_FEW_ANSWERS),
        (answers("+-", cut=[0]), DropReason.TOO_FEW_ANSWERS),
        (answers("++", "--", cut=[0, 1]), DropReason.TRUNCATED),
        (answers("++", "--", "+-", cut=[0, 1]), DropReason.TRUNCATED),
        (answers("++", "--", "-", "x", cut=[0, 1, 2]), DropReason.TRUNCATED),
        (answers("x", "x"), DropReason.UNPARSED),
        (answers("++", "x", "", "+-", cut=[0]), DropReason.UNPARSED),
        (answers("+-", "-+", "+-"), DropReason.SAME_SCORE),
        (answers("+-", "++--"), DropReason.SAME_SCORE),
        (answers("--", "?", "-x"), DropReason.SAME_SCORE),
        (answers("++", "n", "+x"), DropReason.SAME_SCORE),
        (answers("+-", "+-", texts=["a", "a"]), DropReason.IDENTICAL_TEXT),
        (answers("++", "++", texts=["a", "a"]), DropReason.IDENTICAL_TEXT),
        (answers("++", "+-", texts=["a", "a"]), DropReason.IDENTICAL_TEXT),
        (answers("++", "+-", "---+", texts=["a", "b", "a"]), DropReason.IDENTICAL_TEXT),
    ],
)
def test_drop_reasons(items, reason):
    assert best_worst(QUESTION, (), items) is reason


def test_cut_off_and_unparsed_answers_are_no_candidates():
    items = answers("+++", "x", "+-", "++-", "---", cut=[0, 4])
    assert samples(best_worst(QUESTION, (), items)) == (3, 2)


def test_reasons_are_plain_strings_by_their_names():
    assert json.dumps({DropReason.SAME_SCORE: DropReason.TRUNCATED}) == '{"same_score": "truncated"}'
    assert {reason.value for reason in DropReason} == {
        "same_score", "identical_text", "chosen_without_correct", "rejected_without_incorrect", "truncated",
        "nothing_to_learn", "unparsed", "too_few_answers",
    }


@pytest.mark.parametrize(
    "chosen, rejected, reason",
    [
        ("+-", "--", None),
        ("n", "++-", None),
        ("--", "-?+", DropReason.CHOSEN_WITHOUT_CORRECT),
        ("-++", "+++", DropReason.REJECTED_WITHOUT_INCORRECT),
        ("+-", "-+", DropReason.SAME_SCORE),
    ],
)
def test_filters_for_any_strategy(chosen, rejected, reason):
    """Best against worst never meets the two middle filters; a strategy that pairs otherwise does."""
    assert unfit(answer(chosen, 0), answer(rejected, 1)) is reason
    assert unfit(answer(chosen, 0, "a"), answer(rejected, 1, "a")) is DropReason.IDENTICAL_TEXT


def test_strategy_by_name():
    assert STRATEGIES == {"best_worst": best_worst}


letters = st.text(alphabet="".join(LETTERS), max_size=6)


finish_reasons = st.sampled_from(["stop"] * 4 + ["length"])


@st.composite
def sampled_answers(draw):
    """Up to eight answers, few texts (so that some are identical), some cut off."""
    return [
        answer(labels, sample, draw(st.sampled_from("abcdefgh")), draw(finish_reasons))
        for sample, labels in enumerate(draw(st.lists(letters, max_size=8)))
    ]


def holds(item, labels):
    return any(sentence.label in labels for sentence in item.annotation.sentences)


@given(letters)
def test_score_lies_between_its_extremes(labels):
    value = score(annotation(labels))
    parsed = [LETTERS[letter] for letter in labels if letter != "x"]
    if not parsed:
        assert value is None
        return
    assert 0 <= value <= 1
    assert (value == 0) == (not CORRECT & set(parsed))
    assert (value == 1) == (not INCORRECT & set(parsed))
    assert round(value * len(parsed)) == sum(label in CORRECT for label in parsed)


@given(sampled_answers(), st.randoms(use_true_random=False))
def test_order_of_the_answers_makes_no_difference(items, random):
    shuffled = random.sample(items, len(items))
    assert best_worst(QUESTION, (1,), shuffled) == best_worst(QUESTION, (1,), items)


@given(sampled_answers())
def test_every_outcome_keeps_its_promise(items):
    candidates = [item for item in items if item.rollout.finish_reason == "stop" and item.score is not None]
    scores = [item.score for item in candidates]
    outcome = best_worst(QUESTION, (1,), items)
    if isinstance(outcome, PreferencePair):
        assert outcome.chosen in candidates and outcome.rejected in candidates
        assert outcome.chosen.score == max(scores) > min(scores) == outcome.rejected.score
        assert outcome.chosen.rollout.text != outcome.rejected.rollout.text
        assert holds(outcome.chosen, CORRECT) and holds(outcome.rejected, INCORRECT)
    elif outcome is DropReason.IDENTICAL_TEXT:
        assert len({item.rollout.text for item in candidates}) < len(candidates)
    elif outcome is DropReason.SAME_SCORE:
        assert len(candidates) > 1 and len(set(scores)) == 1
    else:
        assert len(candidates) < 2
        assert (outcome is DropReason.TOO_FEW_ANSWERS) == (len(items) < 2)


@given(sampled_answers())
def test_different_scores_and_texts_always_give_a_pair(items):
    items = [
        answer("".join(k for s in item.annotation.sentences for k, v in LETTERS.items() if v == s.label), i)
        for i, item in enumerate(items)
    ]
    distinct = {item.score for item in items if item.score is not None}
    assert isinstance(best_worst(QUESTION, (), items), PreferencePair) == (len(distinct) > 1)


def pair(chosen, rejected):
    return PreferencePair(QUESTION.id, "Rwanda", (), answer(chosen, 0), answer(rejected, 1), 0)


def test_mixture_counts_pairs_not_sentences():
    pairs = [pair("+", "-"), pair("+--?", "-"), pair("++?", "n-"), pair("+x", "++-x")]
    assert mixture(pairs) == {"chosen_with_incorrect": 0.5, "rejected_with_correct": 0.5}
    assert mixture(pairs[:1]) == {"chosen_with_incorrect": 0.0, "rejected_with_correct": 0.0}
    assert mixture(pairs[1:2]) == {"chosen_with_incorrect": 1.0, "rejected_with_correct": 0.0}


def test_mixture_of_no_pairs_is_zero():
    assert mixture([]) == {"chosen_with_incorrect": 0.0, "rejected_with_correct": 0.0}


def test_every_label_is_covered_here():
    assert set(LETTERS.values()) == set(LABELS)
