"""Short factual questions over the built-in tables: one fact each, with a standard answer and wrong ones (SMA 3.1).

A question is left out where its answer isn't one fact (two official languages), where the question gives it away
("Singapore"), and where the table has fewer than three wrong answers.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping
from functools import cache

from maskdpo_ray.data.domains.table import Entity
from maskdpo_ray.records import Question

NUM_WRONG = 3
_ASKS: Mapping[str, Mapping[str, str]] = {
    "countries": {
        "capital": "What is the capital of {name}?",
        "continent": "On which continent is {name}?",
        "official_language": "What is the official language of {name}?",
        "currency": "What is the currency of {name}?",
    },
    "elements": {
        "symbol": "What is the chemical symbol of {name}?",
        "atomic_number": "What is the atomic number of {name}?",
        "period": "In which period of the periodic table is {name}?",
        "group": "In which group of the periodic table is {name}?",
    },
}
DOMAINS = tuple(_ASKS)
_SEVERAL = frozenset(("capital", "continent"))
"""Kinds whose further values are other names of the answer, or places that it lies in."""
_COMMON = frozenset("am as at be he i in no one s".split())
"""Words that occur in any answer ("Sulfur's", "one of"): as answers they could not be told from them."""


@cache
def questions(domain: str, seed: int = 0) -> list[Question]:
    """The questions about each topic of `builtin:domain`, in its order; `seed` draws the wrong answers.

    Each prompt is a two-shot chat without a system message: the same question about two other topics, answered.
    """
    module = importlib.import_module(f"maskdpo_ray.data.domains.{domain}")
    entities = {entity.name: entity for entity in module.table().entities}
    kinds = [_Kind(name, asks, tuple(entities.values())) for name, asks in _ASKS[domain].items()]
    found = []
    for general in module.questions():
        for kind in kinds:
            answers = kind.answers(entities[general.topic])
            question_id = f"{general.id}/{kind.name.replace('_', '-')}"
            wrong = kind.wrong(answers, f"{seed}\0{question_id}")
            asked = kind.ask(general.topic)
            is_given_away = any(_holds(asked["content"], each) for each in answers)
            if not answers or len(wrong) < NUM_WRONG or is_given_away:
                continue
            shots = [message for name in module.SHOTS for message in kind.shot(entities[name])]
            found.append(
                Question(
                    id=question_id,
                    topic=general.topic,
                    prompt=(*shots, asked),
                    document=general.document,
                    facts={"table": domain, "entity": general.topic, "asks": [kind.name], kind.name: list(answers)},
                    answer=answers[0],
                    wrong_answers=wrong,
                )
            )
    return found


class _Kind:
    """A kind of fact that questions ask for."""

    def __init__(self, name: str, asks: str, entities: tuple[Entity, ...]) -> None:
        self.name = name
        self._asks = asks
        values = [found for entity in entities if (found := entity.facts.get(name))]
        self._standard = tuple(dict.fromkeys(each[0].name for each in values))
        self._owners: dict[str, set[str]] = {}
        """Spelling in lower case -> names of the values that go by it."""
        for value in (value for each in values for value in each):
            for spelling in (value.name, *value.aliases):
                self._owners.setdefault(spelling.casefold(), set()).add(value.name)

    def ask(self, topic: str) -> dict[str, str]:
        return {"role": "user", "content": self._asks.format(name=topic)}

    def shot(self, entity: Entity) -> tuple[dict[str, str], dict[str, str]]:
        """An answered question."""
        return self.ask(entity.name), {"role": "assistant", "content": f"{entity.facts[self.name][0].name}."}

    def answers(self, entity: Entity) -> tuple[str, ...]:
        """The accepted answers, the standard one first; none where there is not one fact.

        Aliases that other values share are left out: "franc" does not tell the Rwandan one from the Burundian.
        """
        values = entity.facts.get(self.name, ())
        if len(values) > 1 and self.name not in _SEVERAL:
            return ()
        aliases = (a for value in values for a in value.aliases if len(self._owners[a.casefold()]) == 1)
        found = tuple(dict.fromkeys((*(value.name for value in values), *aliases)))
        is_common = any(each.casefold() in _COMMON for each in found[:1])
        return () if is_common else tuple(each for each in found if each.casefold() not in _COMMON)

    def wrong(self, accepted: tuple[str, ...], seed: str) -> tuple[str, ...]:
        """Standard answers of other topics that neither hold an accepted answer nor lie in one, drawn by hashes."""
        others = (o for o in self._standard if not any(_holds(o, each) or _holds(each, o) for each in accepted))

        def place(name: str) -> tuple[bytes, str]:
            return hashlib.sha256(f"{seed}\0{name}".encode()).digest(), name

        return tuple(sorted(others, key=place)[:NUM_WRONG])


def _holds(text: str, part: str) -> bool:
    """Whether `part` occurs in `text` as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE) is not None
