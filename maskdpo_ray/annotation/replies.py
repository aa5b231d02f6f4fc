"""Replies of annotators and evaluators: one to each answer that they were given, checked before anything uses it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from maskdpo_ray.errors import AnnotatorError, EvaluatorError, UserError, shown
from maskdpo_ray.records import (
    LABELS,
    VERDICTS,
    Annotation,
    JudgedFact,
    Judgement,
    Question,
    Rollout,
    Sentence,
    Surprisal,
    is_text,
)

Reply = TypeVar("Reply", Annotation, Judgement)


def matched(
    items: Sequence[tuple[Question, Rollout]], replies: object, kind: type[Reply], who: str, error: type[UserError]
) -> Iterator[tuple[str, Rollout, Reply]]:
    """(what an error line about it begins with, answer, reply to it) of each of the items, in order.

    Raises `error`, one line that begins with `who`, when `replies` is no list of as many, and when it comes to a reply
    that is no `kind` or is to another answer.
    """
    noun = kind.__name__.lower()
    if not isinstance(replies, (list, tuple)) or len(replies) != len(items):
        got = len(replies) if isinstance(replies, (list, tuple)) else type(replies).__name__
        raise error(f"{who}: expected a list of {len(items)} {noun}s, got {got}")
    for (question, rollout), reply in zip(items, replies, strict=True):
        where = f"{who}: question {question.id!r}, answer {rollout.sample}"
        if not isinstance(reply, kind):
            article = "an" if noun[0] in "aeiou" else "a"
            raise error(f"{where}: expected {article} {kind.__name__}, got {type(reply).__name__}")
        if (reply.question_id, reply.sample) != (rollout.question_id, rollout.sample):
            got = f"question {reply.question_id!r}, answer {reply.sample}"
            raise error(f"{where}: expected its {noun}, got that of {got}")
        yield where, rollout, reply


def refuse_annotation_faults(items: Sequence[tuple[Question, Rollout]], annotations: object) -> None:
    """Raise AnnotatorError, one line, about the first fault in an annotator's reply to `items`."""
    for where, rollout, annotation in matched(items, annotations, Annotation, "annotator", AnnotatorError):
        end = 0
        for number, sentence in enumerate(annotation.sentences):
            if fault := _annotation_fault(sentence, rollout.text, end):
                raise AnnotatorError(f"{where}, sentence {number}: {fault}")
            end = sentence.end


def _annotation_fault(sentence: Sentence, text: str, least: int) -> str | None:
    """Fault of a labelled span that may start at `least`, None if it has none."""
    if not isinstance(sentence, Sentence):
        return f"expected a Sentence, got {type(sentence).__name__}"
    start, end, confidence = sentence.start, sentence.end, sentence.confidence
    if type(start) is not int or type(end) is not int or not least <= start < end <= len(text):
        return f"expected a span within {least} to {len(text)}, got {shown(start)} to {shown(end)}"
    if not text[start:end].strip():
        return f"expected a span that holds words, got {shown(text[start:end])}"
    if sentence.label not in LABELS:
        return f"label: expected one of {', '.join(LABELS)}; got {shown(sentence.label)}"
    if confidence is not None and not (isinstance(confidence, (int, float)) and 0 <= confidence <= 1):
        return f"confidence: expected 0 to 1 or None, got {shown(confidence)}"
    for name in ("evidence", "kind"):
        value = getattr(sentence, name)
        if value is not None and not is_text(value):
            return f"{name}: expected Unicode text or None, got {shown(value)}"
    return None


def refuse_judgement_faults(items: Sequence[tuple[Question, Rollout]], judgements: object) -> None:
    """Raise EvaluatorError, one line, about the first fault in an evaluator's reply to `items`."""
    for where, _, judgement in matched(items, judgements, Judgement, "evaluator", EvaluatorError):
        if type(judgement.abstained) is not bool:
            raise EvaluatorError(f"{where}: abstained: expected true or false, got {shown(judgement.abstained)}")
        if not isinstance(judgement.facts, tuple):
            raise EvaluatorError(f"{where}: facts: expected a tuple, got {type(judgement.facts).__name__}")
        for number, fact in enumerate(judgement.facts):
            if fault := _judgement_fault(fact):
                raise EvaluatorError(f"{where}, fact {number}: {fault}")
        if not _is_measured(judgement.surprisal):
            expected = "expected None or a Surprisal of a finite number and a whole one"
            raise EvaluatorError(f"{where}: surprisal: {expected}, got {shown(judgement.surprisal)}")


def _is_measured(value: object) -> bool:
    if not isinstance(value, Surprisal):
        return value is None
    return type(value.nats) in (int, float) and math.isfinite(value.nats) and type(value.num_tokens) is int


def _judgement_fault(fact: object) -> str | None:
    if not isinstance(fact, JudgedFact):
        return f"expected a JudgedFact, got {type(fact).__name__}"
    if fact.verdict not in VERDICTS:
        return f"verdict: expected one of {', '.join(VERDICTS)}; got {shown(fact.verdict)}"
    if not is_text(fact.text):
        return f"text: expected Unicode text, got {shown(fact.text)}"
    if fact.evidence is not None and not is_text(fact.evidence):
        return f"evidence: expected Unicode text or None, got {shown(fact.evidence)}"
    return None
