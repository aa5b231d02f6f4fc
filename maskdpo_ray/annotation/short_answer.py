"""The `short_answer` annotator: a whole answer is right or wrong by the question's standard answer (SMA 3.2).

One span over the text: `no_hallucination` if it is correct, `contradictory` if not, `no_fact` if it abstains,
`unparsed` if that can't be told. Words are compared, or a judge verifies the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.verifier import Verified, Verifier
from maskdpo_ray.annotation.matching import accepted, compare, normal, refuse_unanswered
from maskdpo_ray.config.plugins import require_count
from maskdpo_ray.errors import require
from maskdpo_ray.records import NO_FACT, Annotation, Question, Rollout, Sentence


class ShortAnswerAnnotator:
    """See the module. Needs an `answer` in every question."""

    def __init__(
        self,
        judge: str | None = None,
        judge_options: Mapping[str, Any] | None = None,
        max_reply_tokens: int = 256,
        max_concurrency: int | None = None,
    ) -> None:
        """Nothing is started.

        Args:
            judge: `vllm`, `http` or `python:package.module:Class` (see `annotation.llm.judge`); none: words.
            judge_options: keyword arguments of the judge.
            max_reply_tokens: the judge's longest reply, its reasoning included.
            max_concurrency: questions that one actor labels at once; none: 16 with a judge, else 1.

        Raises:
            ConfigError: one line, about any of these.
        """
        at = "annotation.options"
        require(judge is None or isinstance(judge, str), f"{at}.judge", "a name or none", judge)
        is_mapping = judge_options is None or isinstance(judge_options, Mapping)
        require(is_mapping, f"{at}.judge_options", "a mapping", judge_options)
        require(
            judge is not None or not judge_options, f"{at}.judge_options", f"none without {at}.judge", judge_options
        )
        require_count(f"{at}.max_reply_tokens", max_reply_tokens)
        self.max_concurrency = (1 if judge is None else 16) if max_concurrency is None else max_concurrency
        require_count(f"{at}.max_concurrency", self.max_concurrency)
        self.judge = None if judge is None else judges.build(judge, judge_options or {}, max_reply_tokens)
        self.num_gpus = getattr(self.judge, "num_gpus", 0)
        self.gives_confidence = False
        self._max_reply_tokens = max_reply_tokens
        self._verifier: Verifier | None = None

    def check(self, question: Question) -> None:
        """Raise DataError unless the question has a standard answer."""
        refuse_unanswered(question, "the short_answer annotator")

    def start(self) -> None:
        """Start the judge. Raises UserError, one line, when that fails."""
        if self.judge is not None:
            judges.start(self.judge)
            self._verifier = self._verifier or Verifier(self.judge, self._max_reply_tokens)

    def rest(self) -> None:
        """Let the judge rest, if there is one."""
        judges.rest(self.judge)

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """See `Annotator.annotate`; `evidence` is the standard answer, or the judge's reasoning.

        The judge sees neither abstentions nor answers that are an accepted answer, word for word. Raises
        AnnotatorError, one line, when it fails.
        """
        verdicts = [Verified(compare(question, rollout.text), question.answer or "") for question, rollout in items]
        if self.judge is not None:
            if self._verifier is None:
                raise RuntimeError("start() comes before annotate()")
            open_ones = [i for i, verdict in enumerate(verdicts) if not _is_settled(verdict, *items[i])]
            found = self._verifier.verify([(items[i][0], items[i][1].text) for i in open_ones])
            for i, verdict in zip(open_ones, found, strict=True):
                verdicts[i] = verdict
        return [_annotation(*item, verdict) for item, verdict in zip(items, verdicts, strict=True)]

    def close(self) -> None:
        """Let go of the judge."""
        if self.judge is not None:
            self.judge.close()


def _is_settled(verdict: Verified, question: Question, rollout: Rollout) -> bool:
    return verdict.label == NO_FACT or normal(rollout.text) in map(normal, accepted(question))


def _annotation(question: Question, rollout: Rollout, verdict: Verified) -> Annotation:
    """One span over all that isn't white space around the answer; none in an empty answer."""
    text = rollout.text
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    asks = (question.facts or {}).get("asks")
    kind = asks[0] if isinstance(asks, list | tuple) and len(asks) == 1 and isinstance(asks[0], str) else None
    spans = (Sentence(start, end, verdict.label, evidence=verdict.evidence, kind=kind),) if start < end else ()
    return Annotation(rollout.question_id, rollout.sample, spans)
