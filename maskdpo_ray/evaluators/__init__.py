"""Evaluators: a second opinion on answers, from someone that training did not learn to please.

One module each, loaded when named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from maskdpo_ray.records import Judgement, Question, Rollout
from maskdpo_ray.registry import Registry


class Evaluator(Protocol):
    """Judges the facts of answers.

    Built on the driver, its constructor's keyword arguments being `eval.options`; pickled to every evaluation actor;
    started there.
    """

    def check(self, question: Question) -> None:
        """Raise DataError, one line, when answers to `question` can't be judged.

        Asked of every held-out question before a run starts: it loads no model and takes no time to speak of.
        """
        ...

    def start(self) -> None:
        """Load what judging needs (a model, a connection). Called once, before the first `judge`."""
        ...

    def judge(self, items: Sequence[tuple[Question, Rollout]]) -> list[Judgement]:
        """One judgement for each (question, answer), in the same order; verdicts are `records.VERDICTS`."""
        ...


REGISTRY = Registry(
    "eval.evaluator",
    "eval.options",
    {
        "factscore": ("maskdpo_ray.evaluators.factscore", "FactScore"),
        "short_answer": ("maskdpo_ray.evaluators.short_answer", "ShortAnswer"),
    },
    ("check", "start", "judge"),
)


def build(name: str, options: Mapping[str, Any] | None = None) -> Evaluator:
    """The evaluator that a config names, not started yet. Raises ConfigError."""
    built: Evaluator = REGISTRY.build(name, options)
    return built
