"""FActScore (Min et al. 2023, https://arxiv.org/abs/2305.14251): an answer's facts, each checked against passages.

A language model breaks an answer's sentences into facts and checks them, or, without one, rules do: facts are read from
clauses and looked up by their words. The rules share only the list of phrases to the reader with the `facts` annotator,
none of its tables. Passages are found by BM25.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.abstention import abstains
from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.annotation.llm.tags import Tags
from maskdpo_ray.annotation.rules import idle
from maskdpo_ray.config.plugins import require_count
from maskdpo_ray.data.corpus import Passages
from maskdpo_ray.data.corpus import documents as read_documents
from maskdpo_ray.errors import DataError, require, shown
from maskdpo_ray.evaluation.evaluators import statements
from maskdpo_ray.evaluation.evaluators.protocol import MayAskJudge
from maskdpo_ray.evaluation.evaluators.statements import Statement, words
from maskdpo_ray.records import IRRELEVANT, SUPPORTED, UNPARSED, UNSUPPORTED, JudgedFact, Judgement, Question, Rollout

_EXTRACT = """Break the sentence below into independent facts. It is part of an answer about {topic}.
Write one fact a line, each line starting with "- ". Each fact is a short full sentence that can be understood alone: \
put names in place of "it" and "they". Add nothing that the sentence does not say, and leave out nothing that changes \
what it says: "not", "only", "until", "former". What a question or a guess ("I think that ...") says of the world is a \
fact to be checked, too.
If the sentence states no fact that could be checked, write only "- NONE".

Sentence: {sentence}"""
_VERIFY = """Read these passages about {topic}:

{passages}

Judge the statement by the passages alone. Is it true or false? A statement that the passages do not support is false.

Statement: {fact}

Reply with one word: True or False."""
_FACT_TOKENS, _VERDICT_TOKENS = 512, 32
"""Longest replies: a sentence's facts, and the verdict on one."""
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+?)\s*$")
_NONE = Tags({"NONE": "none"})
_VERDICTS = Tags({"True": SUPPORTED, "False": UNSUPPORTED})
_MOST_EVIDENCE = 240
"""Characters of the passages that are kept as evidence."""
_INDEXES = 64
"""Documents whose index is kept."""
_OFFICIAL = "official"
"""Word that selects the passage; many passages leave it out."""
Items = Sequence[tuple[Question, Rollout]]
Facts = tuple[JudgedFact, ...]


def _keys(text: str) -> list[str]:
    return [word.key for word in words(text)]


class FactScore(MayAskJudge):
    """Supported, unsupported and irrelevant facts, by rules or with a language model as `judge`."""

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
            judge, judge_options, max_concurrency: see `MayAskJudge`; the rules read English only.
            documents: file or folder of {"title", "text"} (`corpus.documents`), searched for every question; none: the
                question's own.
            passages: number of passages that a fact is checked against.

        Raises ConfigError, and DataError for the file of documents.
        """
        require_count("eval.options.passages", passages)
        is_file = documents is None or isinstance(documents, str)
        require(is_file, "eval.options.documents", "a JSON Lines file", documents)
        super().__init__(judge, judge_options, max_concurrency, _FACT_TOKENS)
        self._count = passages
        self._texts = None if documents is None else list(read_documents(Path(documents)))
        self._passages_of: Callable[[Question], Passages] | None = None

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
        super().start()
        if self._passages_of is not None:
            return  # it has rested
        shared = None if self._texts is None else Passages([p for text in self._texts for p in _cut(text, "en")], _keys)

        @lru_cache(maxsize=_INDEXES)
        def own(document: str, language: str) -> Passages:
            return Passages(_cut(document, language), _keys)

        self._passages_of = lambda question: shared or own(question.document or "", question.language)

    def judge(self, items: Items) -> list[Judgement]:
        """See `Evaluator.judge`. Answers that abstain have no facts."""
        if self._passages_of is None:
            raise RuntimeError("start() comes before judge()")
        silent = [abstains(rollout.text) for _, rollout in items]
        stating = [item for item, says_so in zip(items, silent, strict=True) if not says_so]
        if self._judge is None:
            facts = iter([self._by_rules(*item, self._passages_of(item[0])) for item in stating])
        else:
            facts = iter(self._by_judge(stating, self._passages_of))
        return [
            Judgement(rollout.question_id, rollout.sample, () if says_so else next(facts), says_so)
            for (_, rollout), says_so in zip(items, silent, strict=True)
        ]

    def _by_rules(self, question: Question, answer: Rollout, passages: Passages) -> Facts:
        """A verdict on every clause of an answer."""
        common = frozenset(word.text for text in passages.texts for word in words(text) if word.text.islower())
        found = []
        for start, end in sentences.split(answer.text, question.language):
            sentence = statements.LIST_MARK.sub("", answer.text[start:end])
            for clause in statements.clauses(sentence[idle.opening(sentence) :]):
                statement = statements.read(clause, question.topic, common)
                fact = None if statement is None else self._look_up(statement, passages)
                if fact is not None and statement is not None and statement.denied:
                    # Denying a supported fact is wrong; denying an unsupported one may be right.
                    fact = replace(fact, verdict=UNSUPPORTED) if fact.verdict == SUPPORTED else None
                found.append(fact or JudgedFact(clause, IRRELEVANT))
        return tuple(found)

    def _look_up(self, statement: Statement, passages: Passages) -> JudgedFact:
        """Supported if one passage about the same thing holds all names, numbers and nouns of the statement."""
        claimed = " ".join(word.text for word in (*statement.names, *statement.nouns))
        about = " ".join(word.text for word in statement.about)
        near = passages.find(about, self._count) or passages.find(claimed, self._count)
        common = [word for word in (*statement.nouns, *statement.about) if word.key != _OFFICIAL]
        for passage in near:
            held = words(passage)
            if all(any(name.matches(word) for word in held) for name in statement.names) and all(
                any(noun.matches(word, loosely=True) for word in held) for noun in common
            ):
                return JudgedFact(statement.text, SUPPORTED, passage)
        return JudgedFact(statement.text, UNSUPPORTED, near[0] if near else None)

    def _by_judge(self, items: Items, passages_of: Callable[[Question], Passages]) -> list[Facts]:
        """Facts of each answer in two rounds of questions, for all sentences and then for all facts at once.

        A sentence or verdict that the judge's reply does not give is `unparsed`. Raises AnnotatorError, one line, when
        there is no reply.
        """
        split = [
            [_EXTRACT.format(topic=question.topic, sentence=rollout.text[start:end]) for start, end in spans]
            for question, rollout in items
            for spans in [sentences.split(rollout.text, question.language)]
        ]
        extracted = self._ask([prompt for prompts in split for prompt in prompts], _FACT_TOKENS)
        found = [[fact for prompt in prompts for fact in _facts(prompt, extracted[prompt])] for prompts in split]
        checks: dict[tuple[str, str], tuple[str, str]] = {}  # (question, fact) -> (prompt, evidence)
        for (question, _), facts in zip(items, found, strict=True):
            for fact in facts:
                if isinstance(fact, str) and (question.id, fact) not in checks:
                    near = "\n".join(passages_of(question).find(f"{question.topic} {fact}", self._count))
                    prompt = _VERIFY.format(topic=question.topic, passages=near or "(none)", fact=fact)
                    checks[question.id, fact] = (prompt, near[:_MOST_EVIDENCE])
        replies = self._ask([prompt for prompt, _ in checks.values()], _VERDICT_TOKENS)

        def judged(question: Question, fact: str) -> JudgedFact:
            prompt, evidence = checks[question.id, fact]
            reply = replies[prompt]
            verdict = (None if reply.fault is not None else _VERDICTS.meaning(reply.text)) or UNPARSED
            return JudgedFact(fact, verdict, reply.quoted() if verdict == UNPARSED else evidence or None)

        return [
            tuple(fact if isinstance(fact, JudgedFact) else judged(question, fact) for fact in facts)
            for (question, _), facts in zip(items, found, strict=True)
        ]


def _cut(document: str, language: str) -> list[str]:
    """Sentences and lines of a document: words that stand together in one belong together."""
    return [document[start:end] for start, end in sentences.split(document, language)]


def _facts(prompt: str, reply: Reply) -> list[str | JudgedFact]:
    """Facts that the judge wrote; one `unparsed` for a reply without a list."""
    lines = [match.group(1) for line in reply.text.splitlines() if (match := _LINE.match(line))]
    if reply.fault is not None or not (lines or reply.text in _NONE):
        return [JudgedFact(prompt.rpartition("Sentence: ")[2], UNPARSED, reply.quoted())]
    return [line for line in lines if line not in _NONE]
