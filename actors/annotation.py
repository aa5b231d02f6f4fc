"""An annotation actor: hosts an annotator and labels the answers of whole questions at a time."""

from __future__ import annotations

from actors.faults import told
from actors.host import Host, Stored
from maskdpo_ray.annotation import replies
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.models import thinking
from maskdpo_ray.records import Annotation, Question, Rollout


class AnnotationActor(Host[Annotator]):
    """One annotator of `maskdpo_ray.annotation.protocol`, built on the driver and started here."""

    def annotate(self, stored: Stored[Annotator], question: Question, rollouts: list[Rollout]) -> list[Annotation]:
        """Label every answer to one question, in order.

        Raises AnnotatorError when the annotator's reply does not fit the answers.
        """
        annotator = self._started(stored)
        answers = thinking.judged(rollouts, annotator)
        items = [(question, answer.rollout) for answer in answers]
        with self._clock, told():
            annotations = annotator.annotate(items)
        replies.refuse_annotation_faults(items, annotations)
        return [answer.restored(labels) for answer, labels in zip(answers, annotations, strict=True)]
