"""Whether what an evaluator gives back are judgements of what it was given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from maskdpo_ray.errors import EvaluatorError, shown
from maskdpo_ray.records import VERDICTS, JudgedFact, Judgement, Question, Rollout, Surprisal, is_text


def refuse_faults(items: Sequence[tuple[Question, Rollout]], judgements: object) -> None:
    """Raise EvaluatorError, one line, about the first fault in an evaluator's reply to `items`."""
    if not isinstance(judgements, (list, tuple)) or len(judgements) != len(items):
        got = f"{len(judgements)}" if isinstance(judgements, (list, tuple)) else type(judgements).__name__
        raise EvaluatorError(f"evaluator: expected a list of {len(items)} judgements, got {got}")
    for (question, rollout), judgement in zip(items, judgements, strict=True):
        where = f"evaluator: question {question.id!r}, answer {rollout.sample}"
        if not isinstance(judgement, Judgement):
            raise EvaluatorError(f"{where}: expected a Judgement, got {type(judgement).__name__}")
        if (judgement.question_id, judgement.sample) != (rollout.question_id, rollout.sample):
            got = f"question {judgement.question_id!r}, answer {judgement.sample}"
            raise EvaluatorError(f"{where}: expected its judgement, got that of {got}")
        if type(judgement.abstained) is not bool:
            raise EvaluatorError(f"{where}: abstained: expected true or false, got {shown(judgement.abstained)}")
        if not isinstance(judgement.facts, tuple):
            raise EvaluatorError(f"{where}: facts: expected a tuple, got {type(judgement.facts).__name__}")
        for number, fact in enumerate(judgement.facts):
            if fault := _fault(fact):
                raise EvaluatorError(f"{where}, fact {number}: {fault}")
        if not _is_measured(judgement.surprisal):
            expected = "expected None or a Surprisal of a finite number and a whole one"
            raise EvaluatorError(f"{where}: surprisal: {expected}, got {shown(judgement.surprisal)}")


def _is_measured(value: object) -> bool:
    if not isinstance(value, Surprisal):
        return value is None
    return type(value.nats) in (int, float) and math.isfinite(value.nats) and type(value.num_tokens) is int


def _fault(fact: object) -> str | None:
    if not isinstance(fact, JudgedFact):
        return f"expected a JudgedFact, got {type(fact).__name__}"
    if fact.verdict not in VERDICTS:
        return f"verdict: expected one of {', '.join(VERDICTS)}; got {shown(fact.verdict)}"
    if not is_text(fact.text):
        return f"text: expected Unicode text, got {shown(fact.text)}"
    if fact.evidence is not None and not is_text(fact.evidence):
        return f"evidence: expected Unicode text or None, got {shown(fact.evidence)}"
    return None
