"""FActScore (Min et al. 2023, https://arxiv.org/abs/2305.14251): an answer's facts, each looked up in documents.

A user's documents: a JSON Lines file of texts that all questions share.

Passages of a reference text by BM25 (Robertson and Zaragoza 2009), with the library bm25s.

Rule-based fact checking: facts are read from clauses and looked up in passages of prose, without a model.

Shares only the list of phrases to the reader with the `facts` annotator, none of its tables.

Facts by a language model: it breaks an answer's sentences into facts, and checks each against passages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.llm import judge as asking
from maskdpo_ray.annotation.llm.judge import Judge, Reply, ask
from maskdpo_ray.annotation.llm.tags import Tags
from maskdpo_ray.annotation.plugins import require, require_count
from maskdpo_ray.annotation.rules import idle
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.evaluation.evaluators import statements
from maskdpo_ray.evaluation.evaluators.abstention import abstains
from maskdpo_ray.evaluation.evaluators.statements import Statement, words
from maskdpo_ray.records import IRRELEVANT, SUPPORTED, UNPARSED, UNSUPPORTED, JudgedFact, Judgement, Question, Rollout

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
        self._judge = asking.build_for_evaluator(judge, judge_options, MAX_TOKENS)
        self.num_gpus = getattr(self._judge, "num_gpus", 0)
        self._texts = None if documents is None else read_passages(Path(documents))
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
            asking.start_for_evaluator(self._judge)
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


def read_passages(path: Path) -> list[str]:
    """The texts, each with its title in front: one {"text": ..., "title": ...} a line, the title optional.

    Raises DataError, one line, that names the line.
    """
    texts = []
    for where, value in objects(path):
        if not value.keys() <= {"text", "title"}:
            raise DataError(f"{where}: expected an object with text and, if you like, title; got {shown(value)}")
        for name, field in (("text", value.get("text")), ("title", value.get("title", "none"))):
            if not isinstance(field, str) or not field.strip():
                raise DataError(f"{where}: {name}: expected text that is not empty, got {shown(field)}")
        texts.append("\n".join(value[name] for name in ("title", "text") if name in value))
    return texts


class Passages:
    """Passages that can be searched."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts`, one passage each."""
        import bm25s

        self.texts = tuple(texts)
        keys = [[word.key for word in words(text)] for text in texts]
        self._index: Any = None
        if any(keys):
            self._index = bm25s.BM25()
            self._index.index(keys, show_progress=False)

    def find(self, query: str, count: int) -> list[str]:
        """At most `count` passages that share a word with `query`, the best first, ties in the order of the text."""
        keys = [word.key for word in words(query)]
        if self._index is None or not keys:
            return []
        scores = self._index.get_scores(keys)
        ranked = sorted((i for i in range(len(self.texts)) if scores[i] > 0), key=lambda i: (-scores[i], i))
        return [self.texts[i] for i in ranked[:count]]


_OFFICIAL = "official"
"""Words that select the passage; many passages leave them out."""


class Rules:
    """Verdict on a clause: supported if one passage about the same thing holds all its names, numbers and nouns."""

    def __init__(self, passages_of: Callable[[Question], Passages], count: int) -> None:
        """`count`: how many passages are read for a fact."""
        self._passages_of, self._count = passages_of, count

    def facts(self, items: Sequence[tuple[Question, Rollout]]) -> list[tuple[JudgedFact, ...]]:
        """The facts of each answer."""
        return [tuple(self._judge(question, rollout.text)) for question, rollout in items]

    def _judge(self, question: Question, answer: str) -> list[JudgedFact]:
        passages = self._passages_of(question)
        common = frozenset(word.text for text in passages.texts for word in words(text) if word.text.islower())
        found = []
        for start, end in sentences.split(answer, question.language):
            sentence = statements.LIST_MARK.sub("", answer[start:end])
            for clause in statements.clauses(sentence[idle.opening(sentence) :]):
                statement = statements.read(clause, question.topic, common)
                fact = None if statement is None else self._look_up(statement, passages)
                if fact is not None and statement is not None and statement.denied:
                    # Denying a supported fact is wrong; denying an unsupported one may be right.
                    fact = replace(fact, verdict=UNSUPPORTED) if fact.verdict == SUPPORTED else None
                found.append(fact or JudgedFact(clause, IRRELEVANT))
        return found

    def _look_up(self, statement: Statement, passages: Passages) -> JudgedFact:
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
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+?)\s*$")
_NONE = Tags({"NONE": "none"})
_VERDICTS = Tags({"True": SUPPORTED, "False": UNSUPPORTED})
MAX_TOKENS, _VERDICT_TOKENS = 512, 32
"""Longest replies: facts, and the verdict on one."""
_MOST_EVIDENCE = 240
"""Characters of the passages that are kept."""


class Asked:
    """Two rounds of questions to a judge, each for all sentences or facts at once, and each asked once."""

    def __init__(self, judge: Judge, passages_of: Callable[[Question], Passages], count: int) -> None:
        """`count`: how many passages the judge reads for a fact."""
        self._judge, self._passages_of, self._count = judge, passages_of, count

    def facts(self, items: Sequence[tuple[Question, Rollout]]) -> list[tuple[JudgedFact, ...]]:
        """The facts of each answer; a sentence or a verdict that the judge does not give is `unparsed`.

        Raises AnnotatorError, one line, when there is no reply to be had.
        """
        split = [
            [_EXTRACT.format(topic=question.topic, sentence=rollout.text[start:end]) for start, end in spans]
            for question, rollout in items
            for spans in [sentences.split(rollout.text, question.language)]
        ]
        extracted = self._ask([prompt for prompts in split for prompt in prompts], MAX_TOKENS)
        found = [[fact for prompt in prompts for fact in _facts(prompt, extracted[prompt])] for prompts in split]
        checks: dict[tuple[str, str], tuple[str, str]] = {}  # (question, fact) -> (prompt, evidence)
        for (question, _), facts in zip(items, found, strict=True):
            for fact in facts:
                if isinstance(fact, str) and (question.id, fact) not in checks:
                    near = "\n".join(self._passages_of(question).find(f"{question.topic} {fact}", self._count))
                    prompt = _VERIFY.format(topic=question.topic, passages=near or "(none)", fact=fact)
                    checks[question.id, fact] = (prompt, near[:_MOST_EVIDENCE])
        verdicts = self._ask([prompt for prompt, _ in checks.values()], _VERDICT_TOKENS)

        def judged(question: Question, fact: str) -> JudgedFact:
            prompt, evidence = checks[question.id, fact]
            verdict = _verdict(verdicts[prompt])
            return JudgedFact(fact, verdict, verdicts[prompt].quoted() if verdict == UNPARSED else evidence or None)

        return [
            tuple(fact if isinstance(fact, JudgedFact) else judged(question, fact) for fact in facts)
            for (question, _), facts in zip(items, found, strict=True)
        ]

    def _ask(self, prompts: Sequence[str], max_tokens: int) -> dict[str, Reply]:
        distinct = list(dict.fromkeys(prompts))
        if not distinct:
            return {}
        replies = ask(self._judge, [[{"role": "user", "content": prompt}] for prompt in distinct], max_tokens)
        return dict(zip(distinct, replies, strict=True))


def _facts(prompt: str, reply: Reply) -> list[str | JudgedFact]:
    """The facts that the judge wrote; one `unparsed` for a reply without a list."""
    lines = [match.group(1) for line in reply.text.splitlines() if (match := _LINE.match(line))]
    if reply.fault is not None or not (lines or reply.text in _NONE):
        return [JudgedFact(prompt.rpartition("Sentence: ")[2], UNPARSED, reply.quoted())]
    return [line for line in lines if line not in _NONE]


def _verdict(reply: Reply) -> str:
    return (None if reply.fault is not None else _VERDICTS.meaning(reply.text)) or UNPARSED
