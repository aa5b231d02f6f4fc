"""The `facts` annotator: single sentences by rule, and its precision on hand-labelled answers."""

from __future__ import annotations

import pytest

from maskdpo_ray.annotators import build
from maskdpo_ray.annotators.facts import FactsAnnotator
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.records import CONTRADICTORY as WRONG
from maskdpo_ray.records import NO_FACT, Question, Rollout, Sentence
from maskdpo_ray.records import NO_HALLUCINATION as RIGHT
from maskdpo_ray.records import UNVERIFIABLE as OPEN

ANNOTATOR = FactsAnnotator()


def label(text: str, entity: str, table: str = "countries") -> list[Sentence]:
    question = Question("q", entity, (), facts={"table": table, "entity": entity})
    (annotation,) = ANNOTATOR.annotate([(question, Rollout("q", 0, (), text, "stop", 0))])
    return list(annotation.sentences)


COUNTRY_CASES = [
    ("Rwanda", "The capital of Rwanda is Kigali.", RIGHT, "capital"),
    ("Rwanda", "The capital of Rwanda is Paris.", WRONG, "capital"),
    ("Rwanda", "The capital of Rwanda is Gisenyi.", WRONG, "capital"),
    ("Rwanda", "Kigali is the capital of Rwanda.", RIGHT, "capital"),
    ("Rwanda", "Capital: Kigali", RIGHT, "capital"),
    ("Rwanda", "Its capital is Kigali and the official language is Kinyarwanda.", RIGHT, "capital"),
    ("Rwanda", "Rwanda is a landlocked country in East Africa.", RIGHT, "continent"),
    ("Rwanda", "Rwanda is in Asia.", WRONG, "continent"),
    ("Rwanda", "Rwanda is bordered by Uganda, whose capital is Kampala.", RIGHT, "neighbour"),
    ("Rwanda", "Rwanda borders Uganda, Kenya and Tanzania.", WRONG, "neighbour"),
    ("Rwanda", "The currency of Rwanda is the Burundian franc.", WRONG, "currency"),
    ("Rwanda", "The currency is the franc.", RIGHT, "currency"),
    ("Rwanda", "Kigali is the largest city in Rwanda.", OPEN, None),
    ("Rwanda", "Here are five short facts about Rwanda:", NO_FACT, None),
    ("Rwanda", "One neighbour of Rwanda is the Republic of the Congo.", WRONG, "neighbour"),
    ("Niger", "One neighbour of Niger is Nigeria.", RIGHT, "neighbour"),
    ("South Africa", "The capital of South Africa is Cape Town.", RIGHT, "capital"),
]


@pytest.mark.parametrize(("entity", "text", "expected", "kind"), COUNTRY_CASES)
def test_country_sentences(entity: str, text: str, expected: str, kind: str | None) -> None:
    (sentence,) = label(text, entity)
    assert (sentence.label, sentence.kind) == (expected, kind), sentence.evidence
    assert sentence.evidence


def test_unknown_annotator_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="facts"):
        build("fact")
    assert isinstance(build("facts"), FactsAnnotator)


def test_questions_without_facts_are_refused() -> None:
    rollout = Rollout("q", 0, (), "Kigali.", "stop", 0)
    for facts in (None, {"table": "countries"}, {"table": "nowhere", "entity": "Rwanda"},
                  {"table": "countries", "entity": "Atlantis"}):
        with pytest.raises(DataError, match="question 'q'"):
            ANNOTATOR.annotate([(Question("q", "t", (), facts=facts), rollout)])
