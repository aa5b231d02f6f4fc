"""An annotation actor: hosts an annotator and labels the answers of whole questions at a time."""

from __future__ import annotations

from actors.clock import BusyClock
from maskdpo_ray import annotators
from maskdpo_ray.records import Annotation, Question, Rollout


class AnnotationActor:
    """One annotator of `maskdpo_ray.annotators`, by name."""

    def __init__(self, annotator: str) -> None:
        self._annotator = annotators.build(annotator)
        self._clock = BusyClock()

    def ready(self) -> bool:
        """True once the annotator is built."""
        return True

    def annotate(self, question: Question, rollouts: list[Rollout]) -> list[Annotation]:
        """Label every answer to one question, in order.

        Raises RuntimeError when the annotator's reply does not fit the answers.
        """
        with self._clock:
            annotations = self._annotator.annotate([(question, rollout) for rollout in rollouts])
        expected = [(rollout.question_id, rollout.sample) for rollout in rollouts]
        if [(annotation.question_id, annotation.sample) for annotation in annotations] != expected:
            raise RuntimeError(f"the annotator did not answer for each answer of question {question.id!r} in order")
        return annotations

    def busy_seconds(self) -> float:
        """Seconds spent labelling since the start."""
        return self._clock.seconds()
