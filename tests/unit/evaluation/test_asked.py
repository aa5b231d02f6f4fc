"""Recall: which facts a question asks for, and which of them an answer states."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.asked import asked_facts, num_recalled
from maskdpo_ray.records import LABELS, NO_HALLUCINATION, Annotation, Question, Rollout, Sentence

RIGHT, WRONG = "no_hallucination", "contradictory"
FIVE = ("capital", "continent", "official_language", "currency", "neighbour")


def ask(facts: dict[str, Any] | None = None, answer: str | None = None, topic: str = "Rwanda") -> Question:
    return Question("q", topic, ({"role": "user", "content": "?"},), facts=facts, answer=answer)


def recalled(question: Question, *said: tuple[str, str, str | None]) -> int:
    """`num_recalled` of an answer of these (sentence, label, kind)."""
    text, sentences = "", []
    for sentence, label, kind in said:
        sentences.append(Sentence(len(text), len(text) + len(sentence), label, kind=kind))
        text += sentence + " "
    rollout = Rollout("q", 0, (), text, "stop", 0)
    return num_recalled(question, asked_facts(question), rollout, Annotation("q", 0, tuple(sentences)))


def test_the_built_in_questions_ask_for_five_facts() -> None:
    for domain, kinds in ((countries, FIVE), (elements, elements.ASKS)):
        of_table = {kind.name for kind in domain.table().kinds}
        for question in domain.questions():
            asked = asked_facts(question)
            assert tuple(asked) == kinds and of_table.issuperset(kinds)
            assert all(asked.values())
            assert all(kind.replace("_", " ") in question.prompt[-1]["content"] for kind in kinds)


def test_a_fact_counts_once_and_only_when_right() -> None:
    question = next(each for each in countries.questions() if each.topic == "Rwanda")
    assert recalled(question, ("x", RIGHT, "capital"), ("y", RIGHT, "capital")) == 1
    assert (
        recalled(question, ("x", RIGHT, "capital"), ("x", WRONG, "continent"), ("x", "unverifiable", "currency")) == 1
    )
    assert recalled(question, ("Rwanda is landlocked.", RIGHT, "coast")) == 0  # right, and not asked for
    assert recalled(question, *(("x", RIGHT, kind) for kind in FIVE)) == 5
    assert recalled(question) == 0


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from((*FIVE, "coast"))), max_size=8))
def test_recall_is_at_most_what_is_asked_and_grows_with_what_is_said(said: list[tuple[str, str]]) -> None:
    question = ask({"asks": [*FIVE]})
    counts = [recalled(question, *(("x", *each) for each in said[:n])) for n in range(len(said) + 1)]
    assert counts == sorted(counts)
    assert counts[-1] == len({kind for label, kind in said if label == NO_HALLUCINATION and kind in FIVE})


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("It speaks KINYARWANDA, and its capital is Kigali.", 2),
        ("Its capital is Kigalissima.", 0),
        ("The capital is Kigali.", 1),
        ("It lies at 1,483 km from there.", 1),
    ],
)
def test_without_kinds_the_values_tell(sentence: str, expected: int) -> None:
    question = ask(
        {"asks": ["capital", "language", "distance"], "capital": "Kigali", "distance": 1483}
        | {"language": ["French", "Kinyarwanda"]}
    )
    assert recalled(question, (sentence, RIGHT, None)) == expected
    assert recalled(question, (sentence, WRONG, None)) == 0


def test_the_topics_name_tells_no_fact() -> None:
    question = ask({"asks": ["continent"], "continent": "Africa"}, topic="South Africa")
    assert recalled(question, ("The capital of South Africa is Pretoria.", RIGHT, None)) == 0
    assert recalled(question, ("South Africa is in Africa.", RIGHT, None)) == 1


def test_a_standard_answer_is_the_one_fact_asked_for() -> None:
    question = ask(answer="the River Kagera")
    assert recalled(question, ("It is the river Kagera.", RIGHT, "river")) == 1
    assert recalled(question, ("It is the Kagera.", RIGHT, None)) == 0
    assert asked_facts(ask()) == asked_facts(ask({"table": "countries", "entity": "Rwanda"})) == {}


@pytest.mark.parametrize("names", [[], "capital", [1], {"capital": "Kigali"}, None])
def test_malformed_names_are_one_line(names: Any) -> None:
    with pytest.raises(DataError, match=r"^question 'q': facts.asks: expected the names of the facts .*, got "):
        asked_facts(ask({"asks": names}))
