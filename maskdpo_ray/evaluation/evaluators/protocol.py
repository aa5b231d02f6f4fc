"""Evaluators: a second opinion on answers, from someone that training did not learn to please.

One module each, loaded when named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from maskdpo_ray.annotation.plugins import HostedSlot
from maskdpo_ray.records import Judgement, Question, Rollout


class Evaluator(Protocol):
    """Judges the facts of answers.

    Built on the driver, its constructor's keyword arguments being `eval.options`; pickled to every evaluation actor;
    started there. Where it has a `max_concurrency` (a whole number above 0; 1 without), so many threads judge at once.
    Where it has `num_gpus`, its actor must have so many.
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


KNOWN: dict[str, tuple[str, str]] = {
    "factscore": ("maskdpo_ray.evaluation.evaluators.factscore", "FactScore"),
    "short_answer": ("maskdpo_ray.evaluation.evaluators.short_answer", "ShortAnswer"),
}
"""Evaluator name -> (module, class)."""
_SLOT: HostedSlot[Evaluator] = HostedSlot("eval.evaluator", "eval.options", KNOWN, ("check", "start", "judge"))
build, check, num_gpus = _SLOT.build, _SLOT.check, _SLOT.num_gpus
"""See `plugins.HostedSlot`."""
