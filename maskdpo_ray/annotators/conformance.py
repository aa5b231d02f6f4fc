"""Whether what an annotator gives back is an annotation of what it was given."""

from __future__ import annotations

from collections.abc import Sequence

from maskdpo_ray.errors import AnnotatorError, shown
from maskdpo_ray.records import LABELS, Annotation, Question, Rollout, Sentence, is_text
from maskdpo_ray.replies import matched


def refuse_faults(items: Sequence[tuple[Question, Rollout]], annotations: object) -> None:
    """Raise AnnotatorError, one line, about the first fault in an annotator's reply to `items`."""
    for where, rollout, annotation in matched(items, annotations, Annotation, "annotator", AnnotatorError):
        end = 0
        for number, sentence in enumerate(annotation.sentences):
            if fault := _fault(sentence, rollout.text, end):
                raise AnnotatorError(f"{where}, sentence {number}: {fault}")
            end = sentence.end


def _fault(sentence: Sentence, text: str, least: int) -> str | None:
    """What is wrong with a labelled span that may start at `least`, or None."""
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
