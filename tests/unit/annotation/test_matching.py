"""Answers and standard answers, compared by words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from maskdpo_ray.annotation.matching import accepted, compare, normal, places
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNPARSED, Question

QUESTION = Question("q", "t", ({"role": "user", "content": "Where?"},), answer="The São Paulo")


def test_normal_form() -> None:
    assert normal("The U.S.A.'s  10,000 — an Élan") == ("u", "s", "s", "10000", "elan")


def test_places() -> None:
    assert list(places(("a", "b"), ("a", "b", "c", "a", "b"))) == [0, 3]
    assert list(places((), ("a",))) == list(places(("a", "b"), ("a",))) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (None, ("K",)),
        ({"asks": ["capital"], "capital": ["K", "B", "the", 3]}, ("K", "B")),
        ({"asks": ["capital"], "capital": "B"}, ("K", "B")),
        ({"asks": ["capital", "currency"], "capital": "B"}, ("K",)),
        ({"asks": ["capital"]}, ("K",)),
        ({"asks": []}, ("K",)),
    ],
)
def test_accepted_answers(facts: dict[str, object] | None, expected: tuple[str, ...]) -> None:
    assert accepted(replace(QUESTION, answer="K", facts=facts)) == expected


@pytest.mark.parametrize(
    ("standard", "wrong", "answer", "expected"),
    [
        ("The São Paulo", (), "It is Sao  Paulo!", NO_HALLUCINATION),
        ("The São Paulo", (), "Saopaulo", CONTRADICTORY),
        ("The São Paulo", (), "I don't know, sorry.", NO_FACT),
        ("Na", (), "N/A", NO_FACT),
        ("Na", (), "Na.", NO_HALLUCINATION),
        ("Kigali", ("Kampala",), "Kampala", CONTRADICTORY),
        ("Kigali", ("Kampala",), "Kigali or Kampala", UNPARSED),
        ("Kigali", ("Kampala",), "Kigali, not Kampala", NO_HALLUCINATION),
        ("Kigali", ("Kampala",), "It isn't Kigali.", CONTRADICTORY),
        ("Africa", (), "Not in Africa.", CONTRADICTORY),
        ("Sudan", ("South Sudan",), "South Sudan", CONTRADICTORY),
        ("South Sudan", ("Sudan",), "South Sudan", NO_HALLUCINATION),
        ("北京", ("上海",), "不是北京。", CONTRADICTORY),
        ("北京", ("上海",), "是北京。", NO_HALLUCINATION),
    ],
)
def test_labels(standard: str, wrong: tuple[str, ...], answer: str, expected: str) -> None:
    assert compare(replace(QUESTION, answer=standard, wrong_answers=wrong), answer) == expected


@given(st.text(max_size=40), st.text(max_size=10), st.text(max_size=10))
def test_any_text_gets_a_label(text: str, standard: str, wrong: str) -> None:
    found = compare(replace(QUESTION, answer=standard, wrong_answers=(wrong,)), text)
    assert found in {NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNPARSED}
    if normal(standard) and found == NO_HALLUCINATION:
        assert list(places(normal(standard), normal(text)))
