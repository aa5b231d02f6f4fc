"""Several questions a topic of the built-in tables, against the tables and the annotator that reads them."""

from __future__ import annotations

import pytest

from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.data import questions
from maskdpo_ray.data.domains import countries, elements, many
from maskdpo_ray.evaluation.asked import asked_facts, num_recalled
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Annotation, Question, Rollout

TABLES = {"countries": countries, "elements": elements}


def judged(items: list[tuple[Question, str]]) -> list[tuple[Rollout, Annotation]]:
    rollouts = [(question, Rollout(question.id, 0, (1,), text, "stop", 0)) for question, text in items]
    found = build("facts", None).annotate(rollouts)
    return [(rollout, annotation) for (_, rollout), annotation in zip(rollouts, found, strict=True)]


@pytest.mark.parametrize("domain", many.DOMAINS)
def test_at_least_three_questions_a_topic_the_general_one_among_them(domain: str) -> None:
    general, found = questions.load(f"builtin:{domain}"), questions.load(f"builtin:{domain}-many")
    assert [question for question in found if question.id.count("/") == 1] == general
    by_topic: dict[str, list[Question]] = {}
    for question in found:
        by_topic.setdefault(question.topic, []).append(question)
    assert by_topic.keys() == {question.topic for question in general}
    assert all(len(asked) == 3 and asked[0].id in each.id for asked in by_topic.values() for each in asked)
    assert len({question.id for question in found}) == len({str(question.prompt) for question in found}) == len(found)
    assert not by_topic.keys() & set(TABLES[domain].SHOTS)


def test_a_question() -> None:
    (found,) = (each for each in questions.load("builtin:countries-many") if each.id == "countries/rwanda/geography")
    assert found.prompt[-1]["content"].startswith("Give three short facts about the geography of Rwanda: continent, ")
    assert found.prompt[1] == {
        "role": "assistant",
        "content": "Vietnam is in Asia. Vietnam is coastal. Vietnam borders Cambodia.",
    }
    assert found.facts is not None and found.facts["asks"] == ["continent", "coast", "neighbour"]
    assert found.facts["coast"] == ["landlocked"] and "Uganda" in found.facts["neighbour"]
    assert (found.document or "").startswith("Rwanda\n")


@pytest.mark.parametrize("domain", many.DOMAINS)
def test_an_answer_like_the_examples_is_right_and_recalls_all(domain: str) -> None:
    """The annotator reads every sentence in the examples' form about every topic."""
    entities = {entity.name: entity for entity in TABLES[domain].table().entities}
    items = [
        (question, many.answer(entities[question.topic], many._ASKS[domain][question.id.split("/")[2]][1]))
        for question in questions.load(f"builtin:{domain}-many")
        if question.id.count("/") == 2
    ]
    for (question, text), (rollout, annotation) in zip(items, judged(items), strict=True):
        assert [each.label for each in annotation.sentences] == [NO_HALLUCINATION] * 3, text
        asked = asked_facts(question)
        assert num_recalled(question, asked, rollout, annotation) == len(asked) == 3


def test_facts_of_another_country_are_wrong() -> None:
    asked = {each.id: each for each in questions.load("builtin:countries-many")}
    texts = {
        "countries/rwanda/geography": "Rwanda is in Asia. Rwanda is coastal. Rwanda borders Brazil.",
        "countries/rwanda/people": "The capital of Rwanda is Hanoi. The official language of Rwanda is Vietnamese. "
        "The currency of Rwanda is the Vietnamese dong.",
    }
    for _, annotation in judged([(asked[name], text) for name, text in texts.items()]):
        assert [each.label for each in annotation.sentences] == [CONTRADICTORY] * 3
