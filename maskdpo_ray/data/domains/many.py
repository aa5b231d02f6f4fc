"""Several questions a topic over the built-in tables, each for some of its facts: to scale questions as well as topics
(Mask-DPO section 4.1).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache

from maskdpo_ray.data.domains.table import Entity
from maskdpo_ray.records import Question

_ASKS: Mapping[str, Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "countries": {
        "geography": (
            "Give three short facts about the geography of {name}: continent, coast and one neighbour.",
            {
                "continent": "{name} is in {value}.",
                "coast": "{name} is {value}.",
                "neighbour": "{name} borders {value}.",
            },
        ),
        "people": (
            "Give three short facts about the people of {name}: capital, official language and currency.",
            {
                "capital": "The capital of {name} is {value}.",
                "official_language": "The official language of {name} is {value}.",
                "currency": "The currency of {name} is the {value}.",
            },
        ),
    },
    "elements": {
        "place": (
            "Where in the periodic table is {name}? Give three short facts: atomic number, period and category.",
            {
                "atomic_number": "The atomic number of {name} is {value}.",
                "period": "{name} is in period {value}.",
                "category": "{name} is {article} {value}.",
            },
        ),
        "sample": (
            "What is a sample of {name}? Give three short facts: symbol, category and state at room temperature.",
            {
                "symbol": "The symbol of {name} is {value}.",
                "category": "{name} is {article} {value}.",
                "state": "{name} is a {value} at room temperature.",
            },
        ),
    },
}
"""Domain -> name of a question -> (what it asks, kind of fact -> sentence that states it)."""
DOMAINS = tuple(_ASKS)


@cache
def questions(domain: str) -> list[Question]:
    """The question of `builtin:domain` about each topic, as it is, and behind it the others, in the order of topics.

    Each prompt is a two-shot chat without a system message: the same question about two other topics, answered.
    """
    module = importlib.import_module(f"maskdpo_ray.data.domains.{domain}")
    entities = {entity.name: entity for entity in module.table().entities}
    found = []
    for general in module.questions():
        found.append(general)
        for name, (asks, sentences) in _ASKS[domain].items():
            shots: list[dict[str, str]] = []
            for shot in module.SHOTS:
                shots += [_ask(asks, shot), {"role": "assistant", "content": answer(entities[shot], sentences)}]
            values = {kind: [value.name for value in entities[general.topic].facts[kind]] for kind in sentences}
            found.append(
                Question(
                    id=f"{general.id}/{name}",
                    topic=general.topic,
                    prompt=(*shots, _ask(asks, general.topic)),
                    document=general.document,
                    facts={"table": domain, "entity": general.topic, "asks": [*sentences], **values},
                )
            )
    return found


def answer(entity: Entity, sentences: Mapping[str, str]) -> str:
    """The facts as the prompt's examples tell them, one short sentence each."""
    told = []
    for kind, sentence in sentences.items():
        value = entity.facts[kind][0].name
        told.append(sentence.format(name=entity.name, value=value, article="an" if value[0] in "aeiou" else "a"))
    return " ".join(told)


def _ask(asks: str, name: str) -> dict[str, str]:
    return {"role": "user", "content": asks.format(name=name)}
