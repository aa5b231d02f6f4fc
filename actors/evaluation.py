"""An evaluation actor: hosts an evaluator and judges the answers of whole questions at a time."""

from __future__ import annotations

from collections.abc import Callable

from maskdpo_ray.evaluators import Evaluator, conformance
from maskdpo_ray.records import Judgement, Question, Rollout


class EvaluationActor:
    """One evaluator of `maskdpo_ray.evaluators`, built on the driver and started here."""

    def __init__(self, fetch: Callable[[], Evaluator]) -> None:
        """`fetch` gives the evaluator as the driver built it, not started."""
        self._fetch = fetch
        self._evaluator: Evaluator | None = None

    def ready(self) -> bool:
        """True once the evaluator has started."""
        self._started()
        return True

    def _started(self) -> Evaluator:
        # Not in __init__, whose errors Ray wraps; and Ray restarts an actor without asking `ready`.
        if self._evaluator is None:
            evaluator = self._fetch()
            evaluator.start()
            self._evaluator = evaluator
        return self._evaluator

    def judge(self, question: Question, rollouts: list[Rollout]) -> list[Judgement]:
        """Judge every answer to one question, in order.

        Raises EvaluatorError when the evaluator's reply does not fit the answers.
        """
        items = [(question, rollout) for rollout in rollouts]
        judgements = self._started().judge(items)
        conformance.refuse_faults(items, judgements)
        return judgements
