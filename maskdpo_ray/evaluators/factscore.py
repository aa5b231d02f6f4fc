"""FActScore (Min et al. 2023, https://arxiv.org/abs/2305.14251): an answer's facts, each looked up in documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.plugins import require, require_count
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.evaluation.evaluators.abstention import abstains
from maskdpo_ray.evaluation.evaluators.factscore import MAX_TOKENS, Asked
from maskdpo_ray.evaluators import asking, knowledge
from maskdpo_ray.evaluators.retrieval import Passages
from maskdpo_ray.evaluators.rules import Rules
from maskdpo_ray.records import Judgement, Question, Rollout

_DOCUMENTS = 64
"""Documents whose index is kept."""


class FactScore:
    """Supported and unsupported facts. By rules, or with a language model as `judge`."""

    def __init__(
        self,
        judge: str | None = None,
        judge_options: Mapping[str, Any] | None = None,
        documents: str | None = None,
        passages: int = 3,
        max_concurrency: int | None = None,
    ) -> None:
        """Nothing is started.

        Args:
            judge: `vllm`, `http` or `python:package.module:Class` (see docs/annotators.md); none: rules, English only.
            judge_options: keyword arguments of the judge.
            documents: JSON Lines file of {"title", "text"}, searched for every question; none: the question's own.
            passages: how many passages a fact is checked against.
            max_concurrency: questions that one actor judges at once; none: 16 with a judge, else 1.

        Raises ConfigError, and DataError for the file of documents.
        """
        require_count("eval.options.passages", passages)
        is_file = documents is None or isinstance(documents, str)
        require(is_file, "eval.options.documents", "a JSON Lines file", documents)
        concurrency = (1 if judge is None else 16) if max_concurrency is None else max_concurrency
        require_count("eval.options.max_concurrency", concurrency)
        self.max_concurrency = concurrency
        self._count = passages
        self._judge = asking.build(judge, judge_options, MAX_TOKENS)
        self.num_gpus = getattr(self._judge, "num_gpus", 0)
        self._texts = None if documents is None else knowledge.read(Path(documents))
        self._backend: Rules | Asked | None = None

    def check(self, question: Question) -> None:
        """Refuse a question without a document to check against, and for the rules one that is not in English."""
        where = f"question {question.id!r}"
        if self._texts is None and not (question.document or "").strip():
            expected = "expected a text for the factscore evaluator (or eval.options.documents)"
            raise DataError(f"{where}: document: {expected}, got {shown(question.document)}")
        if self._judge is None and question.language != "en":
            expected = "expected en for the rules of the factscore evaluator (other languages need eval.options.judge)"
            raise DataError(f"{where}: language: {expected}, got {question.language!r}")

    def start(self) -> None:
        """Start the judge, index the documents. Raises UserError, one line, when the judge can't be started."""
        shared = None if self._texts is None else Passages([p for text in self._texts for p in _cut(text, "en")])

        @lru_cache(maxsize=_DOCUMENTS)
        def own(document: str, language: str) -> Passages:
            return Passages(_cut(document, language))

        def passages_of(question: Question) -> Passages:
            return shared or own(question.document or "", question.language)

        if self._judge is None:
            self._backend = Rules(passages_of, self._count)
        else:
            asking.start(self._judge)
            self._backend = Asked(self._judge, passages_of, self._count)

    def judge(self, items: Sequence[tuple[Question, Rollout]]) -> list[Judgement]:
        """See `Evaluator.judge`. Answers that abstain have no facts."""
        if self._backend is None:
            raise RuntimeError("start() comes before judge()")
        silent = [abstains(rollout.text) for _, rollout in items]
        facts = iter(self._backend.facts([item for item, says_so in zip(items, silent, strict=True) if not says_so]))
        return [
            Judgement(rollout.question_id, rollout.sample, () if says_so else next(facts), says_so)
            for (_, rollout), says_so in zip(items, silent, strict=True)
        ]


def _cut(document: str, language: str) -> list[str]:
    """Sentences and lines: short enough that words which stand together in one belong together."""
    return [document[start:end] for start, end in sentences.split(document, language)]
