"""Pairs: the paper's score, highest against lowest, its filters, and which answers are no candidates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.pairing.scoring import mixture, num_facts, score, scored, unfit
from maskdpo_ray.pairing.strategies import STRATEGIES, best_worst
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
    DropReason,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    Sentence,
)

ANY = PairsConfig(min_facts=0)
"""Options under which answers that state nothing can be chosen."""
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
    pair = best_worst(QUESTION, [7], items[::-1], ANY)
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
    assert best_worst(QUESTION, [7], items, ANY) is reason


def test_filters_look_at_the_labels_and_not_only_at_the_score() -> None:
    """Imported answers bring scores of their own."""
    high, low = answer(0, UNVERIFIABLE), answer(1, CONTRADICTORY)
    assert unfit(structs.replace(high, score=0.9), low, ANY) is DropReason.CHOSEN_WITHOUT_CORRECT
    low = structs.replace(answer(1, NO_FACT), score=0.1)
    assert unfit(answer(0, NO_FACT), low, ANY) is DropReason.REJECTED_WITHOUT_INCORRECT
    assert unfit(answer(0, NO_FACT), answer(1, CONTRADICTORY), ANY) is None
    assert unfit(answer(0, NO_FACT), answer(1, CONTRADICTORY)) is DropReason.TOO_FEW_FACTS
    assert unfit(answer(0, NO_HALLUCINATION), answer(1, CONTRADICTORY)) is None


def test_answers_of_another_question_or_several_policies_are_refused() -> None:
    other = structs.replace(QUESTION, id="kenya/five")
    with pytest.raises(ValueError, match="expected 'kenya/five'"):
        best_worst(other, [7], [answer(0, NO_FACT), answer(1, CONTRADICTORY)])
    with pytest.raises(ValueError, match=r"one policy version, got \[0, 1\]"):
        best_worst(QUESTION, [7], [answer(0, NO_FACT), answer(1, CONTRADICTORY, version=1)])
    with pytest.raises(ValueError, match="sample 1"):
        scored(answer(0, NO_FACT).rollout, answer(1, NO_FACT).annotation)


N, H, C, U = NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        # An abstention scores 1.0; the next best that states something is taken.
        ([[N], [H, H, H, H, C], [C]], {}, (1, 2)),
        ([[N], [H, H, H, H, C]], {}, DropReason.TOO_FEW_FACTS),  # the next best is the worst
        ([[N], [H, H, H, H, C]], {"min_facts": 0}, (0, 1)),
        ([[N], [H, H, H, H, C], [C]], {"next_best": False}, DropReason.TOO_FEW_FACTS),
        ([[H], [H, H, H, H, C], [C]], {"next_best": False}, (0, 2)),
        ([[N], [N, C]], {}, DropReason.TOO_FEW_FACTS),
        ([[N], [N, N]], {}, DropReason.SAME_SCORE),
        ([[H], [H] * 9 + [C]], {}, (0, 1)),  # the paper's score looks at the share, not at how much is stated
        ([[H], [H] * 9 + [C], [C]], {"min_facts": 2}, (1, 2)),
        ([[H], [C]], {"min_facts": 2}, DropReason.TOO_FEW_FACTS),
        # Ties.
        ([[H], [H] * 5, [C]], {}, (0, 2)),
        ([[H] * 5, [H], [C]], {}, (0, 2)),
        ([[H], [H] * 5, [C], [C, C]], {"ties": "most_facts"}, (1, 3)),
        ([[H] * 5, [H] * 5, [C, U], [C, C]], {"ties": "most_facts"}, (0, 2)),
        ([[N, N, H], [H, H], [C]], {"ties": "most_facts"}, (1, 2)),
        ([[C], [C, U]], {}, DropReason.SAME_SCORE),
        ([[H], [H, H]], {}, DropReason.SAME_SCORE),
    ],
)
def test_who_is_chosen(labels: list[list[str]], options: dict[str, object], expected: object) -> None:
    found = best_worst(QUESTION, [7], [answer(i, *each) for i, each in enumerate(labels)], PairsConfig(**options))
    if isinstance(found, PreferencePair):
        found = (found.chosen.rollout.sample, found.rejected.rollout.sample)
    assert found == expected


def test_answers_that_were_cut_off() -> None:
    items = [answer(0, H, H, finish="length"), answer(1, H, C), answer(2, C)]
    for cut_off, chosen in (("drop", 1), ("keep", 0)):
        pair = best_worst(QUESTION, [7], items, PairsConfig(cut_off=cut_off))
        assert isinstance(pair, PreferencePair) and pair.chosen.rollout.sample == chosen


def test_fewest_facts_is_a_number() -> None:
    with pytest.raises(ConfigError, match="^pairs.min_facts: expected at least 0, got -1$"):
        PairsConfig(min_facts=-1)


@given(answers, st.integers(1, 2))
def test_a_chosen_answer_states_something(items: list[ScoredAnswer], least: int) -> None:
    """A chosen answer states enough and no better one does; if none is chosen, none is better than the worst."""
    outcome = best_worst(QUESTION, [7], items, PairsConfig(min_facts=least))
    candidates = [a for a in items if a.rollout.finish_reason == "stop" and a.score is not None]
    stating = [a.score for a in candidates if labels_of(a).count(H) >= least]
    if isinstance(outcome, PreferencePair):
        assert num_facts(outcome.chosen) == labels_of(outcome.chosen).count(H) >= least
        assert outcome.chosen.score == max(stating) > min(a.score for a in candidates) == outcome.rejected.score
    elif outcome is DropReason.TOO_FEW_FACTS:
        assert all(score == min(a.score for a in candidates) for score in stating)


@given(answers, st.randoms(use_true_random=False))
def test_a_pair_is_what_the_paper_asks_for(items: list[ScoredAnswer], shuffler: random.Random) -> None:
    outcome = best_worst(QUESTION, [7], items, ANY)
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    for options in (ANY, PairsConfig(), PairsConfig(ties="most_facts", cut_off="keep")):
        assert best_worst(QUESTION, [7], shuffled, options) == best_worst(QUESTION, [7], items, options)

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


def test_the_docs_have_every_reason() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/formats.md").read_text(encoding="utf-8")
    table = page.partition("## Questions that give no pair")[2]
    assert [reason for reason in DropReason if f"`{reason}`" not in table] == []


def test_strategies_are_found_by_name() -> None:
    assert STRATEGIES["best_worst"] is best_worst
