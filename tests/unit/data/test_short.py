"""Short questions of the built-in tables, against the tables and the annotators that read them."""

from __future__ import annotations

from collections import Counter

import pytest

from maskdpo_ray.annotation.matching import accepted, compare
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.data import questions
from maskdpo_ray.data.domains import short
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Question

BY_ID = {question.id: question for domain in short.DOMAINS for question in questions.load(f"builtin:{domain}-short")}


def test_one_of_each_kind() -> None:
    def made(name: str) -> tuple[object, ...]:
        question = BY_ID[name]
        assert question.facts is not None
        (kind,) = question.facts["asks"]
        return question.topic, question.prompt[-1]["content"], question.answer, question.facts[kind]

    assert made("countries/rwanda/capital") == ("Rwanda", "What is the capital of Rwanda?", "Kigali", ["Kigali"])
    assert made("countries/chad/currency")[2] == "Central African CFA franc"
    assert made("countries/brazil/official-language")[2:] == ("Portuguese", ["Portuguese"])
    assert made("countries/brazil/continent")[2] == "South America"
    assert made("elements/gold/symbol")[1:] == ("What is the chemical symbol of Gold?", "Au", ["Au"])
    assert made("elements/neon/period")[2:] == ("2", ["2", "two"])
    assert BY_ID["countries/rwanda/capital"].prompt[:2] == (
        {"role": "user", "content": "What is the capital of Vietnam?"},
        {"role": "assistant", "content": "Hanoi."},
    )


def test_what_is_left_out() -> None:
    for name in (
        "countries/rwanda/official-language",  # it has several
        "countries/luxembourg/capital",  # the question says it
        "elements/iodine/symbol",  # "I" is in most answers
        "elements/sulfur/symbol",  # as is the "s" of "Sulfur's"
        "countries/vietnam/capital",  # an example of the prompt
    ):
        assert name not in BY_ID
    francs = accepted(BY_ID["countries/djibouti/currency"])
    assert "franc" not in francs and "Djibouti franc" in francs
    assert "one" not in accepted(BY_ID["elements/hydrogen/period"])


def test_right_and_wrong_answers_are_labelled_as_such() -> None:
    for question in BY_ID.values():
        assert len(set(question.wrong_answers)) == short.NUM_WRONG
        echo = f"It is about this: {question.prompt[-1]['content'].removesuffix('?')}."
        assert compare(question, echo) == CONTRADICTORY, question.id
        for answer in accepted(question):
            for text in (answer, f"{answer}.", f"Of {question.topic} it is {answer}."):
                assert compare(question, text) == NO_HALLUCINATION, (question.id, text)
        for answer in question.wrong_answers:
            assert compare(question, f"Of {question.topic} it is {answer}.") == CONTRADICTORY, (question.id, answer)


def test_topics_documents_and_split_are_those_of_the_general_questions() -> None:
    for domain in short.DOMAINS:
        general = questions.load(f"builtin:{domain}")
        made = questions.load(f"builtin:{domain}-short")
        assert {question.topic for question in made} == {question.topic for question in general}
        documents = {question.topic: question.document for question in general}
        assert all(question.document == documents[question.topic] for question in made)
        held_out, held_out_short = (
            {question.topic for question in questions.split_by_topic(each, 40, 1)[1]} for each in (general, made)
        )
        assert held_out == held_out_short
        counts = Counter(question.topic for question in made)
        assert min(counts.values()) >= 2 and max(counts.values()) == 4


def test_the_seed_draws_the_wrong_answers() -> None:
    first, again, other = (
        short.questions("elements"),
        short.questions.__wrapped__("elements"),
        short.questions("elements", 1),
    )
    assert first == again != other

    def without_wrong(made: list[Question]) -> list[tuple[str, str | None]]:
        return [(question.id, question.answer) for question in made]

    assert without_wrong(first) == without_wrong(other)


@pytest.mark.parametrize("name", ["facts", "short_answer"])
def test_annotators_take_them(name: str) -> None:
    annotator = build(name)
    for question in BY_ID.values():
        annotator.check(question)
