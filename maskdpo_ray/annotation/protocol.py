"""Annotators label the sentences of answers. One module each, loaded when named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from maskdpo_ray.annotation.plugins import HostedSlot
from maskdpo_ray.records import Annotation, Question, Rollout


class Annotator(Protocol):
    """Labels answers sentence by sentence.

    Built on the driver, its constructor's keyword arguments being `annotation.options`; pickled to every annotation
    actor; started there.

    Optional attributes: `max_concurrency` (int), how many questions it can label at once, `annotate` being called from
    several threads; by default an actor labels one question at a time. `num_gpus`, how many GPUs it uses, so that a
    config that reserves too few is refused (a static method `gpus_of(options)` tells `plan`, which has no files and
    builds nothing). `judges_thinking` (bool): answers come without their thinking blocks
    (`rollout.thinking`), and spans refer to that text, unless it is true. `gives_confidence` (bool): false when no
    label will have a confidence, so that a config whose mask needs one (`mask.confidence`) is refused. Optional method:
    `rest()`, with `cluster.colocate`: let go of GPU and models while ranks train, until `start` is called again; an
    annotator without it is dropped there, with all that it remembers, and started anew.
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
    "anah": ("maskdpo_ray.annotation.llm.anah", "AnahAnnotator"),
    "claims": ("maskdpo_ray.annotation.rules.facts", "ClaimsByRules"),
    "classifier": ("maskdpo_ray.annotation.classifier", "ClassifierAnnotator"),
    "facts": ("maskdpo_ray.annotation.rules.facts", "FactsAnnotator"),
    "replay": ("maskdpo_ray.annotation.replay", "ReplayAnnotator"),
    "short_answer": ("maskdpo_ray.annotation.short_answer", "ShortAnswerAnnotator"),
    "spans": ("maskdpo_ray.annotation.spans", "SpansAnnotator"),
    "verdict": ("maskdpo_ray.annotation.llm.verdict", "VerdictAnnotator"),
}
"""Annotator name -> (module, class)."""
_SLOT: HostedSlot[Annotator] = HostedSlot(
    "annotation.annotator", "annotation.options", KNOWN, ("check", "start", "annotate")
)
_SLOT_WITH_JUDGE = replace(_SLOT, known={**KNOWN, "claims": ("maskdpo_ray.annotation.llm.claims", "ClaimsByJudge")})
"""Classes of the names when the option `judge` is given."""
check, num_gpus = _SLOT.check, _SLOT.num_gpus
"""See `plugins.HostedSlot`."""


def build(name: str, options: Mapping[str, Any] | None = None) -> Annotator:
    """See `plugins.HostedSlot.build`; the option `judge` decides between rules and a language model."""
    return _slot(options).build(name, options)


def find(name: str, options: Mapping[str, Any] | None = None) -> type:
    """The class that `build` builds. Raises ConfigError when there is none."""
    found: type = _slot(options).find(name)
    return found


def gpus_of(name: str, options: Mapping[str, Any] | None = None) -> int:
    """See `plugins.HostedSlot.gpus_of`."""
    return _slot(options).gpus_of(name, options)


def _slot(options: Mapping[str, Any] | None) -> HostedSlot[Annotator]:
    is_judged = (options or {}).get("judge") is not None
    return _SLOT_WITH_JUDGE if is_judged else _SLOT
