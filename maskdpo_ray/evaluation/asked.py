"""Facts that a question asks for, and how many of them an answer states: recall, beside the score, which an answer
raises by saying less.

They stand in the question's `facts`: `asks` lists their names, and each name's value, text or a list of accepted ones,
stands beside it: {"asks": ["capital"], "capital": "Kigali"}. The built-in questions ask for five. A question without
`asks` that has a standard answer asks for that one.
"""

from __future__ import annotations

from collections.abc import Mapping

from maskdpo_ray.annotation.matching import normal, places
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import NO_HALLUCINATION, Annotation, Question, Rollout, Sentence

Asked = Mapping[str, tuple[tuple[str, ...], ...]]
"""Name of a fact -> accepted values, each as words (`matching.normal`); none where only its kind tells."""


def asked_facts(question: Question) -> Asked:
    """The facts that a question asks for; none where it does not say. Raises DataError for malformed `facts`."""
    facts = question.facts or {}
    if "asks" not in facts:
        return {} if question.answer is None else {"answer": _values(question.answer)}
    names = facts["asks"]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        expected = 'expected the names of the facts that it asks for, as in ["capital"]'
        raise DataError(f"question {question.id!r}: facts.asks: {expected}, got {shown(names)}")
    return {name: _values(facts.get(name)) for name in names}


def num_recalled(question: Question, asked: Asked, rollout: Rollout, annotation: Annotation) -> int:
    """Number of the asked facts that a sentence labelled `no_hallucination` states, each counted once.

    A sentence states the fact that its `kind` names. One whose kind is not asked for, or which has none, states each
    fact of which it holds an accepted value, the topic's name left out ("South Africa" does not tell the continent).
    """
    topic = normal(question.topic)
    found: set[str] = set()
    for sentence in annotation.sentences:
        if sentence.label != NO_HALLUCINATION:
            continue
        if sentence.kind is not None and sentence.kind in asked:
            found.add(sentence.kind)
        else:
            words = _without(topic, normal(_text(rollout, sentence)))
            found |= {
                name for name, values in asked.items() if any(next(places(value, words), -1) >= 0 for value in values)
            }
    return len(found)


def _text(rollout: Rollout, sentence: Sentence) -> str:
    return rollout.text[sentence.start : sentence.end]


def _values(value: object) -> tuple[tuple[str, ...], ...]:
    accepted = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return tuple(words for each in accepted if (words := normal(str(each))))


def _without(topic: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    while (start := next(places(topic, words), None)) is not None:
        words = (*words[:start], "", *words[start + len(topic) :])  # no value spans the gap
    return words
