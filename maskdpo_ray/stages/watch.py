"""Questions that failed: set aside one by one, until too many of them say that something else is wrong.

The share of labels and verdicts that could not be read; with too many a run stops and learns nothing from the rest.

It is of all that is committed, by earlier attempts too: started again and again, a run does not get past a broken
judge.

How many actors had to be replaced, stage by stage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import AnnotatorError, ClusterError, EvaluatorError, UserError
from maskdpo_ray.records import UNPARSED, Annotation, Failed, Judgement, Labelled
from maskdpo_ray.stages.protocols import Annotators, Engines, Evaluators
from maskdpo_ray.store.ledger import Counts, added_counts, count_unparsed
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import note

WINDOW = 100
"""Questions, the last ones, that the share is of: late in a long run too, a fault that meets all is seen soon."""
FEWEST_QUESTIONS = 20
"""Fewer questions count as this many: one failure among the first ones is tolerated."""


class Failures:
    """Watches the questions of a process, over all stages."""

    def __init__(self, highest: float) -> None:
        """`highest`: tolerated share of failed questions, 0 to 1."""
        self._highest = highest
        self._last: deque[bool] = deque(maxlen=WINDOW)

    def sift(self, items: Iterable[Labelled | Failed], failed: dict[str, str]) -> Iterator[Labelled]:
        """Yield what did not fail; what did goes to `failed`, question id -> error.

        Set it aside when `items` are through: a run that stops in between, for too many failures above all, then tries
        them all again when it goes on.
        Raises ClusterError, one line with the last error, when the share is above the highest.
        """
        for item in items:
            self._last.append(isinstance(item, Failed))
            if isinstance(item, Failed):
                note(f"question {item.question.id!r} failed again and again, at last: {item.error}")
                self._refuse_many(item)
                failed[item.question.id] = item.error
            else:
                yield item

    def _refuse_many(self, last: Failed) -> None:
        if sum(self._last) > self._highest * max(len(self._last), FEWEST_QUESTIONS):
            raise ClusterError(
                f"expected at most {self._highest:.0%} of the last questions to fail (run.max_failed), got "
                f"{sum(self._last)} of {len(self._last)}; the last one, {last.question.id!r}: {last.error}"
            )


FEWEST_PIECES = 50
"""Sentences, or facts, before a share means anything."""


class _Limit(NamedTuple):
    error: type[UserError]
    who: str
    noun: str
    option: str
    highest: float


class UnparsedShare:
    """Counts what a run, or a command, is about to commit."""

    def __init__(self, config: Config, committed: Counts) -> None:
        """`committed`: what is there already."""
        self._counts = committed
        self._limits = {
            "annotations": _Limit(
                AnnotatorError, "annotator", "sentences", "annotation.max_unparsed", config.annotation.max_unparsed
            ),
            "judgements": _Limit(EvaluatorError, "evaluator", "facts", "eval.max_unparsed", config.eval.max_unparsed),
        }

    def take(self, annotations: Sequence[Annotation], judgements: Sequence[Judgement] = ()) -> None:
        """Count these too, before they are committed.

        Raises AnnotatorError or EvaluatorError, one line, when one of them is unparsed and the share above the highest.
        """
        counts = count_unparsed(annotations, judgements)
        self._counts = added_counts(self._counts, counts)
        if not any(each.unparsed for each in counts.values()):
            return
        for part, answer, label, why in _pieces(annotations, judgements):
            limit, found = self._limits[part], self._counts[part]
            if label == UNPARSED and found.total >= FEWEST_PIECES and found.unparsed > limit.highest * found.total:
                raise limit.error(
                    f"{limit.who}: expected at most {limit.highest:.0%} of the {limit.noun} unparsed ({limit.option}), "
                    f"got {found.unparsed} of {found.total}; one of them: question {answer.question_id!r}, "
                    f"answer {answer.sample}: {why}"
                )


def _pieces(
    annotations: Iterable[Annotation], judgements: Iterable[Judgement]
) -> Iterator[tuple[str, Annotation | Judgement, str, str | None]]:
    """(part, answer, label or verdict, what was said) of each sentence and fact."""
    for annotation in annotations:
        for sentence in annotation.sentences:
            yield "annotations", annotation, sentence.label, sentence.evidence
    for judgement in judgements:
        for fact in judgement.facts:
            yield "judgements", judgement, fact.verdict, fact.evidence or fact.text


@contextmanager
def stage(
    tracker: Tracker, name: str, step: int, engines: Engines, annotators: Annotators, evaluators: Evaluators | None
) -> Iterator[None]:
    """Measure a stage, and log how many actors of each group had to be replaced in it, if any."""
    before = counts(engines, annotators, evaluators)
    try:
        with tracker.stage(name, step):
            yield
    finally:
        more = {group: count - before[group] for group, count in counts(engines, annotators, evaluators).items()}
        if any(more.values()):
            tracker.log({f"restarts/{group}": count for group, count in more.items()}, step)


def counts(engines: Engines, annotators: Annotators, evaluators: Evaluators | None) -> dict[str, int]:
    """How many actors of each group had to be replaced since the start."""
    groups = {"rollout": engines, "annotation": annotators, "evaluation": evaluators}
    return {name: group.restarts for name, group in groups.items() if group is not None}
