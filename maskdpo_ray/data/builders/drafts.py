"""Drafts of questions: what becomes of an entry, step by step, until it is a question or dropped (SMA 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from maskdpo_ray.data.builders.entries import Entry
from maskdpo_ray.records import Question

NUM_WRONG = 3
OTHERS = "others"
"""Domain of what belongs to none, and of domains that hold too few questions."""
DOMAINS = (
    "film & entertainment",
    "education & training",
    "physics, chemistry, mathematics & biology",
    "history & traditional culture",
    "biography",
    "politics & law",
    "economics & management",
    "computer science",
    "medical",
    "sociology & humanity",
    "agriculture, forestry, fisheries & allied industries",
    "astronomy & geography",
    "sports & tourism",
    "digital & automotive",
    "industrial engineering",
    "military & war",
    "slang & memes",
    "work & life",
    "high technology",
    "religion & culture",
)
"""The domains of FactualBench (SMA table 2)."""


class Fault(StrEnum):
    """Why a draft is dropped: it could not be read, or is one of the four kinds of low quality (SMA 3.1)."""

    UNPARSED = "unparsed"
    """The judge's reply does not have the form that was asked for."""
    OBSCURE = "obscure"
    """1) Nobody needs to know the answer."""
    SEVERAL_ANSWERS = "several_answers"
    """2) More than one answer is right, or it is a matter of opinion."""
    TIME_DEPENDENT = "time_dependent"
    """3) The standard answer may be wrong, as it changes with time and the question names none."""
    UNCLEAR = "unclear"
    """4) The question can't be understood alone: a pronoun, an ambiguous name."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question about an entry, not yet accepted."""

    entry: Entry
    number: int
    """1, 2, 3 within the entry."""
    question: str
    answer: str
    wrong_answers: tuple[str, ...]
    prompt: tuple[dict[str, Any], ...] = ()
    """Chat messages that ask it; none: the question alone."""
    facts: dict[str, Any] | None = None
    """Further facts for annotators."""

    def made(self, domain: str) -> Question:
        """The question, with its domain in `facts`."""
        return Question(
            id=f"{self.entry.title}/{self.number}",
            topic=self.entry.title,
            prompt=self.prompt or ({"role": "user", "content": self.question},),
            document=self.entry.description,
            facts={**(self.facts or {}), "domain": domain},
            answer=self.answer,
            language=self.entry.language,
            wrong_answers=self.wrong_answers,
        )


class Maker(Protocol):
    """Makes drafts of an entry and judges them; called from several threads at once, each with an entry of its own."""

    def generate(self, entry: Entry) -> list[Draft | Fault]:
        """Up to `num_questions` drafts."""
        ...

    def classify(self, drafts: Sequence[Draft]) -> list[str]:
        """Domain of each draft, `OTHERS` for none."""
        ...

    def assess(self, drafts: Sequence[Draft]) -> list[Fault | None]:
        """Fault of each draft, None for one of high quality. The entry's description is not looked at."""
        ...
