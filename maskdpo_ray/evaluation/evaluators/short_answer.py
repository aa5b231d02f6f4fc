"""Short answers against standard answers: correct, incorrect or unsure.

After the verifier of self-memory alignment (Zhang et al. 2025), which counts unsure answers as incorrect; here they are
abstentions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.annotation.llm.tags import Tags
from maskdpo_ray.annotation.matching import compare, normal, refuse_unanswered
from maskdpo_ray.evaluation.evaluators.protocol import MayAskJudge
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    SUPPORTED,
    UNPARSED,
    UNSUPPORTED,
    JudgedFact,
    Judgement,
    Question,
    Rollout,
)

_VERIFY = """Compare a candidate answer to a question with the standard answer.
Correct: it answers the question and agrees with the standard answer, in whatever words; what else it says does not \
matter.
Incorrect: it contradicts the standard answer, or answers something else.
Unsure: it does not commit itself, or says that it does not know.

Question: {question}
Standard answer: {standard}
Candidate answer: {candidate}

Reply with one word: Correct, Incorrect or Unsure."""
_UNSURE = "unsure"
_VERDICTS = Tags({"Correct": SUPPORTED, "Incorrect": UNSUPPORTED, "Unsure": _UNSURE})
_VERDICT_TOKENS = 32
_OF_LABELS = {NO_HALLUCINATION: SUPPORTED, CONTRADICTORY: UNSUPPORTED, UNPARSED: UNPARSED, NO_FACT: None}


class ShortAnswer(MayAskJudge):
    """One fact an answer: the standard answer, found in it or not, by comparing words or with a model as `judge`."""

    def __init__(
        self,
        judge: str | None = None,
        judge_options: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        """Nothing is started; see `MayAskJudge` for the options. Raises ConfigError."""
        super().__init__(judge, judge_options, max_concurrency, _VERDICT_TOKENS)

    def check(self, question: Question) -> None:
        """Refuse a question without a standard answer. Raises DataError."""
        refuse_unanswered(question, "the short_answer evaluator")

    def judge(self, items: Sequence[tuple[Question, Rollout]]) -> list[Judgement]:
        """See `Evaluator.judge`: one fact, or an abstention."""
        facts = [
            None if verdict is None else JudgedFact(rollout.text.strip(), verdict, evidence)
            for (_, rollout), (verdict, evidence) in zip(items, self._verdicts(items), strict=True)
        ]
        return [
            Judgement(rollout.question_id, rollout.sample, () if fact is None else (fact,), abstained=fact is None)
            for (_, rollout), fact in zip(items, facts, strict=True)
        ]

    def _verdicts(self, items: Sequence[tuple[Question, Rollout]]) -> list[tuple[str | None, str | None]]:
        """(verdict, None when the answer is unsure; evidence) of each answer."""
        by_words = [(_OF_LABELS[compare(question, rollout.text)], question.answer) for question, rollout in items]
        if self._judge is None:
            return by_words
        # The judge sees neither abstentions nor answers that are the standard answer, word for word.
        prompts = {
            i: _VERIFY.format(
                question=question.prompt[-1]["content"], standard=question.answer, candidate=rollout.text.strip()
            )
            for i, (question, rollout) in enumerate(items)
            if by_words[i][0] is not None and normal(rollout.text) != normal(question.answer or "")
        }
        replies = self._ask(list(prompts.values()), _VERDICT_TOKENS)
        return [
            _verdict(replies[prompts[i]], standard) if i in prompts else (verdict, standard)
            for i, (verdict, standard) in enumerate(by_words)
        ]


def _verdict(reply: Reply, standard: str | None) -> tuple[str | None, str | None]:
    verdict = None if reply.fault is not None else _VERDICTS.meaning(reply.text)
    if verdict is None:
        return UNPARSED, reply.quoted()
    return None if verdict == _UNSURE else verdict, standard
