"""Annotators label the sentences of answers. One module each, loaded when named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from maskdpo_ray.annotators.plugins import Slot
from maskdpo_ray.records import Annotation, Question, Rollout


class Annotator(Protocol):
    """Labels answers sentence by sentence.

    Built on the driver, its constructor's keyword arguments being `annotation.options`; pickled to every annotation
    actor; started there.

    One that can label several questions at once, `annotate` called from several threads, says how many in an integer
    attribute `max_concurrency`; without it an actor labels one question at a time. One that runs on GPUs says on how
    many in `num_gpus`, so that a config that reserves too few is refused.
    """

    def check(self, question: Question) -> None:
        """Raise DataError, one line, when answers to `question` can't be labelled.

        Asked of every question before a run starts: it loads no model and takes no time to speak of.
        """
        ...

    def start(self) -> None:
        """Load what labelling needs (a model, a connection). Called once, before the first `annotate`."""
        ...

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order.

        Spans are character offsets into the answer's text, in order, and don't overlap; labels are `records.LABELS`.
        """
        ...


KNOWN: dict[str, tuple[str, str]] = {
    "anah": ("maskdpo_ray.annotators.anah", "AnahAnnotator"),
    "claims": ("maskdpo_ray.annotators.facts", "ClaimsByRules"),
    "classifier": ("maskdpo_ray.annotators.classifier", "ClassifierAnnotator"),
    "facts": ("maskdpo_ray.annotators.facts", "FactsAnnotator"),
    "replay": ("maskdpo_ray.annotators.replay", "ReplayAnnotator"),
}
"""Annotator name -> (module, class)."""

_SLOT = Slot("annotation.annotator", "annotation.options", KNOWN, ("check", "start", "annotate"))
_SLOT_WITH_JUDGE = replace(_SLOT, known={**KNOWN, "claims": ("maskdpo_ray.annotators.judged_claims", "ClaimsByJudge")})
"""What the names stand for where the option `judge` is given."""


def build(name: str, options: Mapping[str, Any] | None = None) -> Annotator:
    """The annotator that a config names, not started yet.

    Raises ConfigError for an unknown name, a class that can't be imported or is no annotator, and options that
    it does not take.
    """
    options = options or {}
    annotator: Annotator = (_SLOT_WITH_JUDGE if "judge" in options else _SLOT).build(name, options)
    _SLOT.count(annotator, "max_concurrency", 1)
    return annotator


def check(annotator: Annotator, question: Question) -> None:
    """Ask an annotator whether answers to `question` can be labelled.

    Raises the UserError that it raises, and ConfigError, one line, for any other error of its code.
    """
    _SLOT.check_question(annotator, question)


def num_gpus(annotator: Annotator) -> int:
    """How many GPUs its actor needs, 0 when it does not say. Raises ConfigError when that is no number."""
    return _SLOT.count(annotator, "num_gpus", 0)
