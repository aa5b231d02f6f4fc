"""The built-in tables and their questions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from maskdpo_ray.annotation.rules.facts import FactsAnnotator
from maskdpo_ray.data.domains import countries, elements, factbook, regions
from maskdpo_ray.records import NO_HALLUCINATION, Question, Rollout


@pytest.mark.parametrize("domain", [countries, elements])
def test_shots_are_true_sentences_and_never_asked(domain) -> None:
    questions = domain.questions()
    assert not {q.topic for q in questions} & set(domain.SHOTS)
    assert len({q.id for q in questions}) == len({q.topic for q in questions}) == len(questions)
    prompt = questions[0].prompt
    for name, shot in zip(domain.SHOTS, (prompt[1], prompt[3]), strict=True):
        question = Question("shot", name, (), facts={"table": domain.table().name, "entity": name})
        (annotation,) = FactsAnnotator().annotate([(question, Rollout("shot", 0, (), shot["content"], "stop", 0))])
        assert [s.label for s in annotation.sentences] == [NO_HALLUCINATION] * 5
        assert len({s.kind for s in annotation.sentences}) == 5


@pytest.mark.parametrize(("domain", "least"), [(countries, 150), (elements, 90)])
def test_questions_are_complete_and_in_a_fixed_order(domain, least: int) -> None:
    questions = domain.questions()
    assert len(questions) >= least
    domain.questions.cache_clear()
    assert domain.questions() == questions
    for question in questions:
        assert [m["role"] for m in question.prompt] == ["user", "assistant", "user", "assistant", "user"]
        assert question.topic in question.prompt[-1]["content"] and question.topic in question.document
        assert all(question.facts.values()), question.facts
        assert question.facts["entity"] == question.topic


def test_countries_and_their_awkward_records() -> None:
    entities = {entity.name: entity for entity in countries.table().entities}

    def names(country: str, kind: str) -> list[str]:
        return [value.name for value in entities[country].facts[kind]]

    assert len([e for e in entities.values() if e.facts]) == 196
    assert names("South Africa", "capital") == ["Pretoria", "Cape Town", "Bloemfontein"]
    assert names("Burma", "capital")[0] == "Nay Pyi Taw" and "Yangon" in names("Burma", "capital")
    assert names("Rwanda", "official_language") == ["Kinyarwanda", "French", "English", "Swahili"]
    assert names("Spain", "official_language") == ["Spanish"] and "Catalan" in names("Spain", "language")
    assert names("Democratic Republic of the Congo", "capital") == ["Kinshasa"]
    assert "Republic of the Congo" in names("Democratic Republic of the Congo", "neighbour")
    assert names("Bhutan", "currency")[0] == "Bhutanese ngultrum"
    assert {"Asia", "Europe"} <= set(names("Turkey", "continent"))
    assert names("Mexico", "continent")[:2] == ["North America", "Central America"]
    assert not entities["Japan"].facts["neighbour"] and not entities["Hong Kong"].facts
    assert "French Guiana" in names("Brazil", "neighbour")


def test_borders_have_two_sides() -> None:
    entities = {entity.name: entity for entity in countries.table().entities}
    one_sided = {
        (name, value.name)
        for name, entity in entities.items()
        for value in entity.facts.get("neighbour", ())
        if (other := entities[value.name].facts) and name not in {v.name for v in other["neighbour"]}
    }
    assert one_sided == set()


def test_factbook_prose_is_read() -> None:
    assert factbook.capitals("Tirana (Tirane)") == ("Tirana", "Tirane")
    assert factbook.capitals("Washington, D.C.") == ("Washington, D.C.",)
    assert factbook.capitals("Kyiv (Kiev is the transliteration from Russian)") == ("Kyiv", "Kiev")
    assert factbook.capitals("no official capital; government offices in the Yaren District") == ()
    assert factbook.capitals("") == ()
    official, listed = factbook.languages("Swahili/Kiswahili (official), Dutch 3% (in cities), other 6.3%")
    assert official == ("Swahili", "Kiswahili") and "Dutch" in listed and "other" not in listed
    assert factbook.languages("") == ((), ())
    assert factbook.neighbours("Egypt 1,115 km; China (southeast) 46 km") == ("Egypt", "China")
    assert factbook.neighbours("") == ()


def test_every_state_lies_in_a_region() -> None:
    with pytest.raises(KeyError):
        regions.of("XX")
    assert {"Southeast Asia", "southeastern Asia"} & {
        a.replace("S", "S") for a in regions.aliases("South-eastern Asia")
    }
    assert regions.of("RW")[:2] == ("Africa", "Eastern Africa")


def test_elements_against_known_values() -> None:
    facts = {q.topic: q.facts for q in elements.questions()}
    assert (facts["Tantalum"]["symbol"], facts["Tantalum"]["atomic_number"], facts["Tantalum"]["period"]) == (
        "Ta",
        "73",
        "6",
    )
    liquid_or_gas = {name for name, f in facts.items() if f["state"] != "solid"}
    assert liquid_or_gas == {
        *("Hydrogen", "Helium", "Nitrogen", "Fluorine", "Neon", "Chlorine", "Argon", "Krypton", "Xenon", "Radon"),
        *("Bromine", "Mercury"),
    }
    assert facts["Helium"]["category"] == "noble gas" and facts["Sodium"]["category"] == "alkali metal"


def test_importing_the_elements_does_not_import_mendeleev() -> None:
    code = (
        "import sys; from maskdpo_ray.data.domains import elements; elements.questions(); "
        "sys.exit('mendeleev' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
