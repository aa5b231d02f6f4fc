"""An evaluation actor: hosts an evaluator and judges the answers of whole questions at a time."""

from __future__ import annotations

from actors.faults import told
from actors.host import Host, Stored
from maskdpo_ray.annotation import replies
from maskdpo_ray.evaluation.evaluators.protocol import Evaluator
from maskdpo_ray.models import thinking
from maskdpo_ray.records import Judgement, Question, Rollout


class EvaluationActor(Host[Evaluator]):
    """One evaluator of `maskdpo_ray.evaluation.evaluators.protocol`, built on the driver and started here."""

    def judge(self, stored: Stored[Evaluator], question: Question, rollouts: list[Rollout]) -> list[Judgement]:
        """Judge every answer to one question, in order.

        Raises EvaluatorError when the evaluator's reply does not fit the answers.
        """
        evaluator = self._started(stored)
        items = [(question, answer.rollout) for answer in thinking.judged(rollouts, evaluator)]
        with self._clock, told():
            judgements = evaluator.judge(items)
        replies.refuse_judgement_faults(items, judgements)
        return judgements
