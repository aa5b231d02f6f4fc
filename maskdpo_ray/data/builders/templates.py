"""A maker without a judge: the short questions of a built-in domain, with what the tables know in place of replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maskdpo_ray.data import questions
from maskdpo_ray.data.builders.drafts import Draft, Fault
from maskdpo_ray.data.builders.entries import Entry
from maskdpo_ray.data.domains import short

_DOMAINS = {"countries": "astronomy & geography", "elements": "physics, chemistry, mathematics & biology"}


def entries(domain: str) -> list[Entry]:
    """The topics of `builtin:domain`, with their documents as descriptions. Raises DataError for another domain."""
    return [Entry(each.topic, each.document or "") for each in questions.load(f"builtin:{domain}")]


class TableMaker:
    """See `drafts.Maker`; its entries are those of `entries`."""

    def __init__(self, domain: str, num_questions: int, seed: int) -> None:
        """`domain`: one of `short.DOMAINS`; `seed` draws the wrong answers."""
        self._domain = domain
        self._num_questions = num_questions
        self._asked: dict[str, list[Draft]] = {}
        for question in short.questions(domain, seed):
            drafts = self._asked.setdefault(question.topic, [])
            entry, text = Entry(question.topic, question.document or ""), str(question.prompt[-1]["content"])
            answers = question.answer or "", question.wrong_answers
            drafts.append(Draft(entry, len(drafts) + 1, text, *answers, question.prompt, question.facts))

    def generate(self, entry: Entry) -> list[Draft | Fault]:
        """See `Maker`."""
        return [replace(draft, entry=entry) for draft in self._asked.get(entry.title, ())[: self._num_questions]]

    def classify(self, drafts: Sequence[Draft]) -> list[str]:
        """See `Maker`: one domain."""
        return [_DOMAINS[self._domain]] * len(drafts)

    def assess(self, drafts: Sequence[Draft]) -> list[Fault | None]:
        """See `Maker`: the templates ask for one known fact of a topic that they name, so there is no fault."""
        return [None] * len(drafts)
