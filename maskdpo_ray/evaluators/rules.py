"""Rule-based fact checking: facts are read from clauses and looked up in passages of prose, without a model.

Shares only the list of phrases to the reader with the `facts` annotator, none of its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.rules import idle
from maskdpo_ray.evaluation.evaluators import statements
from maskdpo_ray.evaluation.evaluators.statements import Statement
from maskdpo_ray.evaluators.retrieval import Passages
from maskdpo_ray.evaluators.words import words
from maskdpo_ray.records import IRRELEVANT, SUPPORTED, UNSUPPORTED, JudgedFact, Question, Rollout

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
