"""Whether what an evaluator gives back are judgements of what it was given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from maskdpo_ray.errors import EvaluatorError, shown
from maskdpo_ray.records import VERDICTS, JudgedFact, Judgement, Question, Rollout, Surprisal, is_text
from maskdpo_ray.replies import matched


def refuse_faults(items: Sequence[tuple[Question, Rollout]], judgements: object) -> None:
    """Raise EvaluatorError, one line, about the first fault in an evaluator's reply to `items`."""
    for where, _, judgement in matched(items, judgements, Judgement, "evaluator", EvaluatorError):
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
