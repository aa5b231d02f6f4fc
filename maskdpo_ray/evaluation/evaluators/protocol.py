"""Evaluators: a second opinion on answers, by something that training did not learn to please. Loaded when named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.annotation.plugins import HostedSlot
from maskdpo_ray.config.plugins import require_count
from maskdpo_ray.records import Judgement, Question, Rollout


class Evaluator(Protocol):
    """Judges the facts of answers.

    Built on the driver, its constructor's keyword arguments being `eval.options`; pickled to every evaluation actor;
    started there. Optional attributes: `max_concurrency`, the number of threads that judge at once (1 without);
    `num_gpus`, the number of GPUs that its actor must have. Optional method: `rest()`, as of an `Annotator`.
    """

    def check(self, question: Question) -> None:
        """Raise DataError, one line, when answers to `question` can't be judged.

        Called with every held-out question before a run starts, so it loads no model and takes hardly any time.
        """
        ...

    def start(self) -> None:
        """Load what judging needs (a model, a connection). Called once, before the first `judge`."""
        ...

    def judge(self, items: Sequence[tuple[Question, Rollout]]) -> list[Judgement]:
        """Return one judgement for each (question, answer), in order; verdicts are `records.VERDICTS`."""
        ...


class MayAskJudge:
    """Base of evaluators that work by rules or, with the option `judge`, ask a language model."""

    def __init__(
        self, judge: str | None, judge_options: Mapping[str, Any] | None, max_concurrency: int | None, max_tokens: int
    ) -> None:
        """Nothing is started.

        Args:
            judge: `vllm`, `http` or `python:package.module:Class` (see docs/annotators.md); none: rules.
            judge_options: keyword arguments of the judge.
            max_concurrency: questions that one actor judges at once; none: 16 with a judge, else 1.
            max_tokens: the longest reply.

        Raises ConfigError.
        """
        self.max_concurrency = (1 if judge is None else 16) if max_concurrency is None else max_concurrency
        require_count("eval.options.max_concurrency", self.max_concurrency)
        self._judge = judges.build_for_evaluator(judge, judge_options, max_tokens)
        self.num_gpus = getattr(self._judge, "num_gpus", 0)

    def start(self) -> None:
        """Start the judge. Raises UserError, one line, when that fails."""
        if self._judge is not None:
            judges.start_for_evaluator(self._judge)

    def rest(self) -> None:
        """Let the judge rest, if there is one."""
        judges.rest(self._judge)

    def _ask(self, prompts: Sequence[str], max_tokens: int) -> dict[str, Reply]:
        """Prompt -> the judge's reply; equal prompts are sent once, and none without a prompt."""
        distinct = list(dict.fromkeys(prompts))
        if self._judge is None or not distinct:
            return {}
        conversations = [[{"role": "user", "content": prompt}] for prompt in distinct]
        return dict(zip(distinct, judges.ask(self._judge, conversations, max_tokens), strict=True))


KNOWN: dict[str, tuple[str, str]] = {
    "factscore": ("maskdpo_ray.evaluation.evaluators.factscore", "FactScore"),
    "short_answer": ("maskdpo_ray.evaluation.evaluators.short_answer", "ShortAnswer"),
}
"""Evaluator name -> (module, class)."""
_SLOT: HostedSlot[Evaluator] = HostedSlot("eval.evaluator", "eval.options", KNOWN, ("check", "start", "judge"))
build, find, check, num_gpus, gpus_of = _SLOT.build, _SLOT.find, _SLOT.check, _SLOT.num_gpus, _SLOT.gpus_of
"""See `plugins.HostedSlot`."""
