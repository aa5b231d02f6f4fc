"""An annotation actor: hosts an annotator and labels the answers of whole questions at a time."""

from __future__ import annotations

from actors.clock import BusyClock
from maskdpo_ray.annotators import Annotator, conformance
from maskdpo_ray.records import Annotation, Question, Rollout


class AnnotationActor:
    """One annotator of `maskdpo_ray.annotators`, built on the driver and started here."""

    def __init__(self, annotator: Annotator) -> None:
        self._annotator = annotator
        self._has_started = False
        self._clock = BusyClock()

    def ready(self) -> bool:
        """True once the annotator has started."""
        self._start()
        return True

    def _start(self) -> None:
        # Not in __init__, whose errors Ray wraps; and Ray restarts an actor without asking `ready`.
        if not self._has_started:
            self._annotator.start()
            self._has_started = True

    def annotate(self, question: Question, rollouts: list[Rollout]) -> list[Annotation]:
        """Label every answer to one question, in order.

        Raises AnnotatorError when the annotator's reply does not fit the answers.
        """
        self._start()
        items = [(question, rollout) for rollout in rollouts]
        with self._clock:
            annotations = self._annotator.annotate(items)
        conformance.refuse_faults(items, annotations)
        return annotations

    def busy_seconds(self) -> float:
        """Seconds spent labelling since the start."""
        return self._clock.seconds()
