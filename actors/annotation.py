"""An annotation actor: hosts an annotator and labels the answers of whole questions at a time.

Its methods are called from several threads when the annotator has a `max_concurrency` above 1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from actors.clock import BusyClock
from maskdpo_ray.annotators import Annotator, conformance
from maskdpo_ray.records import Annotation, Question, Rollout


class AnnotationActor:
    """One annotator of `maskdpo_ray.annotators`, built on the driver and started here."""

    def __init__(self, fetch: Callable[[], Annotator]) -> None:
        """`fetch` gives the annotator as the driver built it, not started."""
        self._fetch = fetch
        self._annotator: Annotator | None = None
        self._starting = threading.Lock()
        self._clock = BusyClock()

    def ready(self) -> bool:
        """True once the annotator has started."""
        self._started()
        return True

    def _started(self) -> Annotator:
        # Not in __init__, whose errors Ray wraps; and Ray restarts an actor without asking `ready`.
        with self._starting:
            if self._annotator is None:
                annotator = self._fetch()
                annotator.start()
                self._annotator = annotator
            return self._annotator

    def annotate(self, question: Question, rollouts: list[Rollout]) -> list[Annotation]:
        """Label every answer to one question, in order.

        Raises AnnotatorError when the annotator's reply does not fit the answers.
        """
        annotator = self._started()
        items = [(question, rollout) for rollout in rollouts]
        with self._clock:
            annotations = annotator.annotate(items)
        conformance.refuse_faults(items, annotations)
        return annotations

    def busy_seconds(self) -> float:
        """Seconds spent labelling since the start."""
        return self._clock.seconds()
