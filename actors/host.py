"""Actors that host an annotator or an evaluator: it is built on the driver, and started here, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from actors.process import BusyClock, end_with_raylet, free_memory
from maskdpo_ray import errors
from maskdpo_ray.annotation import replies
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.errors import ReplyError, UserError, described
from maskdpo_ray.evaluation.evaluators.protocol import Evaluator
from maskdpo_ray.models import thinking
from maskdpo_ray.records import Annotation, Judgement, Question, Rollout


class Startable(Protocol):
    """An annotator or evaluator, which an actor can host.

    Optional: `rest`, which lets go of models until `start` is called again.
    """

    def start(self) -> None:
        """Load what the work needs."""
        ...


Hosted = TypeVar("Hosted", bound=Startable)


@dataclass(frozen=True)
class Stored(Generic[Hosted]):
    """An object in Ray's store; whoever put it there keeps this."""

    reference: Any

    def fetch(self) -> Hosted:
        """A copy for this process."""
        import ray

        found: Hosted = ray.get(self.reference)
        return found


class Host(Generic[Hosted]):
    """Actor around an annotator or evaluator, called from several threads when that has a `max_concurrency` above 1.

    Each call brings what is hosted along: Ray restarts an actor without asking `ready`, and does not keep what a
    constructor was given by reference, as it gives everything large.
    """

    def __init__(self) -> None:
        end_with_raylet()
        self._hosted: Hosted | None = None
        self._is_up = False
        """Whether the object has started, and does not rest."""
        self._starting = threading.Lock()
        self._clock = BusyClock()

    def ready(self, stored: Stored[Hosted]) -> bool:
        """True once the object has started."""
        self._started(stored)
        return True

    def _started(self, stored: Stored[Hosted]) -> Hosted:
        with self._starting:
            hosted = self._hosted
            if hosted is None or not self._is_up:
                with portable_errors():
                    hosted = hosted or stored.fetch()
                    hosted.start()
                self._hosted, self._is_up = hosted, True
            return hosted

    def rest(self) -> None:
        """Give back the memory of models until the next call; no other call may be running.

        An object without a method `rest` is closed, where it can be, and dropped with what it remembers.
        """
        with self._starting, portable_errors():
            if self._is_up:
                self._is_up = False
                if rest := getattr(self._hosted, "rest", None):
                    rest()
                else:
                    getattr(self._hosted, "close", lambda: None)()
                    self._hosted = None
            free_memory()

    def busy_seconds(self) -> float:
        """Seconds spent working since the start."""
        return self._clock.seconds()

    def until_gone(self) -> None:
        """Never returns: who waits for it learns of the end of this process."""
        threading.Event().wait()


class AnnotationActor(Host[Annotator]):
    """Labels the answers to whole questions."""

    def annotate(self, stored: Stored[Annotator], question: Question, rollouts: list[Rollout]) -> list[Annotation]:
        """Label every answer to one question, in order.

        Raises AnnotatorError when the annotator's reply does not fit the answers.
        """
        annotator = self._started(stored)
        answers = thinking.judged(rollouts, annotator)
        items = [(question, answer.rollout) for answer in answers]
        with self._clock, portable_errors():
            annotations = annotator.annotate(items)
        replies.refuse_annotation_faults(items, annotations)
        return [answer.restored(labels) for answer, labels in zip(answers, annotations, strict=True)]


class EvaluationActor(Host[Evaluator]):
    """Judges the answers to whole questions."""

    def judge(self, stored: Stored[Evaluator], question: Question, rollouts: list[Rollout]) -> list[Judgement]:
        """Judge every answer to one question, in order.

        Raises EvaluatorError when the evaluator's reply does not fit the answers.
        """
        evaluator = self._started(stored)
        items = [(question, answer.rollout) for answer in thinking.judged(rollouts, evaluator)]
        with self._clock, portable_errors():
            judgements = evaluator.judge(items)
        replies.refuse_judgement_faults(items, judgements)
        return judgements


@contextmanager
def portable_errors() -> Iterator[None]:
    """Inside, an error raised by a hosted class becomes one of ours, with its file and line.

    Raises UserErrors of ours unchanged; for a class that the user derived from one, that one; and ReplyError for all
    else. An exception that can't be pickled, or unpickled, would be lost on its way to the driver; after `sys.exit` Ray
    ends the actor and says nothing.
    """
    try:
        yield
    except UserError as error:
        if _is_ours(type(error)):
            raise
        raise next(filter(_is_ours, type(error).__mro__))(str(error)) from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise ReplyError(described(error)) from None


def _is_ours(kind: type) -> bool:
    return kind.__module__ == errors.__name__
