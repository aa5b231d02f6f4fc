"""Labels sentences by asking a judge about a reference document: the ANAH-v2 protocol (Mask-DPO appendix A).

For each sentence one conversation of up to three turns: does it hold a verifiable fact; which passages of the document
bear on it; is it consistent with them, contradictory or unverifiable. A sentence without a fact or without a passage
needs no further turn. A reply that is none of those asked for makes the sentence `unparsed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.interviews import Claim, Interviews, Limits, Verdict
from maskdpo_ray.config.plugins import require_count
from maskdpo_ray.errors import DataError, require, shown
from maskdpo_ray.records import Annotation, Question, Rollout, Sentence

Piece = tuple[int, int, Claim | Verdict]
"""A span of an answer and the claim that it makes, or the verdict on it where there is nothing to ask."""


class AnahAnnotator:
    """See the module. Needs a `document` in every question."""

    _name = "anah"
    _turn_names: tuple[str, ...] = turns.ANAH

    def __init__(
        self,
        judge: str = "vllm",
        judge_options: Mapping[str, Any] | None = None,
        templates: str | None = None,
        max_reply_tokens: int = 32,
        max_reference_tokens: int = 512,
        max_document_chars: int = 40000,
        max_concurrency: int = 16,
    ) -> None:
        """Nothing is started.

        Args:
            judge: `vllm`, `http` or `python:package.module:Class` (see `annotators.judge`).
            judge_options: keyword arguments of the judge.
            templates: YAML file of prompts and accepted replies, or the name of one in `templates/`.
            max_reply_tokens: longest reply in the first and third turn.
            max_reference_tokens: longest reply that copies text: the passages of the second turn.
            max_document_chars: longest document; questions with longer ones are refused before the run.
            max_concurrency: questions that one actor labels at once, so that the judge's batch is full.

        Raises:
            ConfigError: one line, about any of these.
        """
        at = "annotation.options"
        require(isinstance(judge, str), f"{at}.judge", "a name", judge)
        is_mapping = judge_options is None or isinstance(judge_options, Mapping)
        require(is_mapping, f"{at}.judge_options", "a mapping", judge_options)
        is_file = templates is None or (isinstance(templates, str) and templates != "")
        require(is_file, f"{at}.templates", "a file", templates)
        require_count(f"{at}.max_reply_tokens", max_reply_tokens)
        require_count(f"{at}.max_reference_tokens", max_reference_tokens)
        require_count(f"{at}.max_document_chars", max_document_chars)
        require_count(f"{at}.max_concurrency", max_concurrency)
        self.max_concurrency = max_concurrency
        self._max_document_chars = max_document_chars
        self._turns = turns.read(turns.find(self._name if templates is None else templates), self._turn_names)
        self.judge = judges.build(judge, judge_options or {}, max(max_reply_tokens, max_reference_tokens))
        self.num_gpus = getattr(self.judge, "num_gpus", 0)
        self.gives_confidence = getattr(self.judge, "gives_logprobs", True)
        self._limits = Limits(max_reply_tokens, max_reference_tokens)
        self._interviews: Interviews | None = None

    def check(self, question: Question) -> None:
        """Raise DataError unless the question has a document that is not too long, in a language of the templates."""
        where, document = f"question {question.id!r}", question.document
        if not document or not document.strip():
            expected = f"expected reference text for the {self._name} annotator"
            raise DataError(f"{where}: document: {expected}, got {shown(document)}")
        if len(document) > self._max_document_chars:
            raise DataError(
                f"{where}: document: expected at most {self._max_document_chars} characters "
                f"(annotation.options.max_document_chars), got {len(document)}"
            )
        if question.language not in self._turns:
            known = ", ".join(self._turns)
            raise DataError(f"{where}: language: expected one of the templates' {known}; got {question.language!r}")

    def start(self) -> None:
        """Start the judge. Raises UserError, one line, when that fails."""
        judges.start(self.judge)
        self._interviews = self._interviews or Interviews(self.judge, self._turns, self._limits)

    def rest(self) -> None:
        """Let the judge rest; verdicts are kept."""
        judges.rest(self.judge)

    @property
    def counts(self) -> Counter[str]:
        """Interviews since the start: `sentences` given, `judged` (distinct ones), `unparsed` of these, `calls`."""
        return Counter() if self._interviews is None else self._interviews.counts

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """See `Annotator.annotate`; any number of threads may call it.

        `confidence` is the probability that the judge gave to the reply that decided, where it says so; `evidence` the
        passages of the document, or the reply that can't be read.

        Raises AnnotatorError, one line, when the judge fails.
        """
        if self._interviews is None:
            raise RuntimeError("start() comes before annotate()")
        answers = self._pieces([_sentences(question, rollout.text) for question, rollout in items])
        claims = [what for pieces in answers for _, _, what in pieces if isinstance(what, Claim)]
        verdicts = self._interviews.verdicts(claims)

        def labelled(start: int, end: int, what: Claim | Verdict) -> Sentence:
            return Sentence(start, end, *(verdicts[what] if isinstance(what, Claim) else what))

        return [
            Annotation(rollout.question_id, rollout.sample, tuple(labelled(*piece) for piece in pieces))
            for (_, rollout), pieces in zip(items, answers, strict=True)
        ]

    def _pieces(self, answers: Sequence[Sequence[tuple[int, int, Claim]]]) -> Sequence[Sequence[Piece]]:
        """Pieces of each answer that get a label: its sentences."""
        return answers

    def close(self) -> None:
        """Let go of the judge."""
        self.judge.close()


def _sentences(question: Question, text: str) -> list[tuple[int, int, Claim]]:
    return [
        (start, end, Claim.of(question, text[start:end])) for start, end in sentences.split(text, question.language)
    ]
