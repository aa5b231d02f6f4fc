"""An evaluator, or none, with a language model beside it: a better score must not be bought with worse language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maskdpo_ray.annotation import replies
from maskdpo_ray.evaluation.evaluators import protocol
from maskdpo_ray.evaluation.evaluators.perplexity import Perplexity
from maskdpo_ray.evaluation.evaluators.protocol import Evaluator
from maskdpo_ray.records import Judgement, Question, Rollout


class Guarded:
    """An evaluator whose judgements have a `surprisal`; without one of one's own they have nothing else."""

    def __init__(self, evaluator: Evaluator | None, perplexity: Perplexity) -> None:
        """Nothing is started. Raises ConfigError when the evaluator's `num_gpus` is no number."""
        self._evaluator, self._perplexity = evaluator, perplexity
        self.max_concurrency = getattr(evaluator, "max_concurrency", 1)
        self.num_gpus = 0 if evaluator is None else protocol.num_gpus(evaluator)

    def check(self, question: Question) -> None:
        """Refuse what the evaluator or the language model refuses. Raises UserError."""
        if self._evaluator is not None:
            protocol.check(self._evaluator, question)
        self._perplexity.check(question)

    def start(self) -> None:
        """Start both. Raises UserError, one line, when that fails."""
        if self._evaluator is not None:
            self._evaluator.start()
        self._perplexity.start()

    def judge(self, items: Sequence[tuple[Question, Rollout]]) -> list[Judgement]:
        """See `Evaluator.judge`. Raises EvaluatorError when the evaluator's reply does not fit the answers."""
        if self._evaluator is None:
            judgements = [Judgement(rollout.question_id, rollout.sample, ()) for _, rollout in items]
        else:
            judgements = self._evaluator.judge(items)
            replies.refuse_judgement_faults(items, judgements)
        surprisals = self._perplexity.measure(items)
        return [replace(each, surprisal=surprisal) for each, surprisal in zip(judgements, surprisals, strict=True)]
