"""Pairs: the paper's score, highest against lowest, and its filters."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.pairs import STRATEGIES, DropReason, best_worst, mixture, score, scored, unfit
from maskdpo_ray.records import (
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    LABELS,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Annotation,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    Sentence,
)

QUESTION = Question("rwanda/five", "Rwanda", ({"role": "user", "content": "Give five facts about Rwanda."},))


def answer(sample: int, *labels: str, text: str | None = None, finish: str = "stop", version: int = 0) -> ScoredAnswer:
    rollout = Rollout(QUESTION.id, sample, (5, 2), text or f"Answer {sample}.", finish, version)
    sentences = tuple(Sentence(i, i + 1, label) for i, label in enumerate(labels))
    return scored(rollout, Annotation(QUESTION.id, sample, sentences))


def labels_of(item: ScoredAnswer) -> list[str]:
    return [sentence.label for sentence in item.annotation.sentences]


answers = st.lists(
    st.tuples(
        st.lists(st.sampled_from(LABELS), max_size=4),
        st.sampled_from(["stop", "stop", "stop", "length"]),
        st.integers(0, 4),
    ),
    max_size=8,
).map(
    lambda rows: [
        answer(i, *labels, finish=finish, text=f"Text {text}.") for i, (labels, finish, text) in enumerate(rows)
    ]
)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE], 0.5),
        ([NO_HALLUCINATION, NO_HALLUCINATION, CONTRADICTORY], 2 / 3),
        ([NO_FACT], 1.0),
        ([UNVERIFIABLE, CONTRADICTORY], 0.0),
        ([UNPARSED, NO_HALLUCINATION, CONTRADICTORY], 0.5),
        ([UNPARSED], None),
        ([], None),
    ],
)
def test_score_is_the_correct_share_of_parsed_sentences(labels: list[str], expected: float | None) -> None:
    assert answer(0, *labels).score == expected
    assert score(answer(0, *labels).annotation) == expected


def test_highest_against_lowest() -> None:
    items = [
        answer(0, NO_HALLUCINATION, CONTRADICTORY),
        answer(1, NO_HALLUCINATION, NO_HALLUCINATION, UNVERIFIABLE),
        answer(2, CONTRADICTORY, NO_FACT, UNVERIFIABLE),
    ]
    pair = best_worst(QUESTION, [7, 8], items)
    assert pair == PreferencePair(QUESTION.id, "Rwanda", (7, 8), items[1], items[2], 0)


def test_equal_scores_take_the_lowest_sample() -> None:
    labels = [CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE]
    items = [answer(i, label) for i, label in enumerate(labels)]
    pair = best_worst(QUESTION, [7], items[::-1])
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen.rollout.sample, pair.rejected.rollout.sample) == (1, 0)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], DropReason.TOO_FEW_ANSWERS),
        ([answer(0, NO_FACT)], DropReason.TOO_FEW_ANSWERS),
        ([answer(0, NO_FACT), answer(1, CONTRADICTORY, finish="length")], DropReason.TRUNCATED),
        ([answer(0, NO_FACT), answer(1, UNPARSED)], DropReason.UNPARSED),
        ([answer(0, NO_FACT), answer(1)], DropReason.UNPARSED),
        ([answer(0, NO_FACT), answer(1, NO_HALLUCINATION)], DropReason.SAME_SCORE),
        ([answer(0, CONTRADICTORY), answer(1, UNVERIFIABLE)], DropReason.SAME_SCORE),
        ([answer(0, NO_FACT, text="It."), answer(1, NO_FACT, text="It.")], DropReason.IDENTICAL_TEXT),
        ([answer(0, NO_FACT, text="It."), answer(1, CONTRADICTORY, text="It.")], DropReason.IDENTICAL_TEXT),
        (
            [answer(0, NO_FACT, text="A."), answer(1, CONTRADICTORY, text="A."), answer(2, NO_FACT, UNVERIFIABLE)],
            DropReason.IDENTICAL_TEXT,
        ),
    ],
)
def test_drop_reasons(items: list[ScoredAnswer], reason: DropReason) -> None:
    assert best_worst(QUESTION, [7], items) is reason


def test_filters_look_at_the_labels_and_not_only_at_the_score() -> None:
    """Imported answers bring scores of their own."""
    high, low = answer(0, UNVERIFIABLE), answer(1, CONTRADICTORY)
    assert unfit(dataclasses.replace(high, score=0.9), low) is DropReason.CHOSEN_WITHOUT_CORRECT
    low = dataclasses.replace(answer(1, NO_FACT), score=0.1)
    assert unfit(answer(0, NO_FACT), low) is DropReason.REJECTED_WITHOUT_INCORRECT
    assert unfit(answer(0, NO_FACT), answer(1, CONTRADICTORY)) is None


def test_answers_of_another_question_or_several_policies_are_refused() -> None:
    other = dataclasses.replace(QUESTION, id="kenya/five")
    with pytest.raises(ValueError, match="expected 'kenya/five'"):
        best_worst(other, [7], [answer(0, NO_FACT), answer(1, CONTRADICTORY)])
    with pytest.raises(ValueError, match=r"one policy version, got \[0, 1\]"):
        best_worst(QUESTION, [7], [answer(0, NO_FACT), answer(1, CONTRADICTORY, version=1)])
    with pytest.raises(ValueError, match="sample 1"):
        scored(answer(0, NO_FACT).rollout, answer(1, NO_FACT).annotation)


@given(answers, st.randoms(use_true_random=False))
def test_a_pair_is_what_the_paper_asks_for(items: list[ScoredAnswer], shuffler: random.Random) -> None:
    outcome = best_worst(QUESTION, [7], items)
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    assert best_worst(QUESTION, [7], shuffled) == outcome

    candidates = [a for a in items if a.rollout.finish_reason == "stop" and set(labels_of(a)) - {UNPARSED}]
    if isinstance(outcome, DropReason):
        scores = {a.score for a in candidates}
        texts = {a.rollout.text for a in candidates}
        # Only a clash of texts between best and worst drops a question whose scores differ.
        assert len(scores) < 2 or len(texts) < len(candidates)
        return
    chosen, rejected = outcome.chosen, outcome.rejected
    assert chosen in candidates and rejected in candidates
    scores = [a.score for a in candidates]
    assert chosen.score == max(scores) > min(scores) == rejected.score
    assert set(labels_of(chosen)) & CORRECT and set(labels_of(rejected)) & INCORRECT
    assert chosen.rollout.text != rejected.rollout.text


def test_mixture_counts_what_masking_can_work_on() -> None:
    def pair(chosen: ScoredAnswer, rejected: ScoredAnswer) -> PreferencePair:
        return PreferencePair(QUESTION.id, "Rwanda", (7,), chosen, rejected, 0)

    pairs = [
        pair(answer(0, NO_FACT, UNVERIFIABLE), answer(1, CONTRADICTORY)),
        pair(answer(0, NO_FACT, UNPARSED), answer(1, CONTRADICTORY, UNPARSED)),
        pair(answer(0, NO_FACT, NO_HALLUCINATION), answer(1, NO_FACT, CONTRADICTORY)),
        pair(answer(0, NO_HALLUCINATION, CONTRADICTORY), answer(1, CONTRADICTORY)),
    ]
    assert mixture(pairs) == {"chosen_with_incorrect": 0.5, "rejected_with_correct": 0.25}
    assert mixture([]) == {"chosen_with_incorrect": 0.0, "rejected_with_correct": 0.0}


def test_strategies_are_found_by_name() -> None:
    assert STRATEGIES["best_worst"] is best_worst
