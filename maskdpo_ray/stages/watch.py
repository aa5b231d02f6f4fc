"""Watch over what is about to be committed: a run stops when too many questions fail or too little can be read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import AnnotatorError, ClusterError, EvaluatorError
from maskdpo_ray.records import UNPARSED, Annotation, Failed, Judgement, Labelled
from maskdpo_ray.store.ledger import Counts, added_counts, count_unparsed
from maskdpo_ray.terminal import note

WINDOW = 100
"""Last questions that the share of failed ones covers: a fault that affects all shows soon, late in a long run too."""
FEWEST_QUESTIONS = 20
"""Fewer questions count as this many: one failure among the first ones is tolerated."""
FEWEST_PIECES = 50
"""Sentences, or facts, before the unparsed share of them is checked."""


class Watch:
    """Watches the questions of a process, over all stages.

    The unparsed share covers all that is committed, earlier attempts included: a broken judge stops every attempt.
    """

    def __init__(self, config: Config, committed: Counts) -> None:
        """`committed`: counts of the sentences and facts that are committed already."""
        self._config = config
        self._counts = committed
        self._have_failed: deque[bool] = deque(maxlen=WINDOW)

    def sift(self, items: Iterable[Labelled | Failed], failed: dict[str, str]) -> Iterator[Labelled]:
        """Yield what did not fail; what did goes to `failed`, question id -> error.

        Write that down when `items` are through: a run that stops before, above all for too many failures, retries
        these questions when it resumes.

        Raises ClusterError, one line with the last error, when too large a share of the last questions failed, and
        AnnotatorError or EvaluatorError as `check_unparsed` does.
        """
        for item in items:
            self._have_failed.append(isinstance(item, Failed))
            if isinstance(item, Failed):
                note(f"question {item.question.id!r} failed in every attempt, at last: {item.error}")
                self._refuse_many(item)
                failed[item.question.id] = item.error
            else:
                self.check_unparsed(item.annotations, item.judgements)
                yield item

    def _refuse_many(self, last: Failed) -> None:
        highest, count, size = self._config.run.max_failed, sum(self._have_failed), len(self._have_failed)
        if count > highest * max(size, FEWEST_QUESTIONS):
            raise ClusterError(
                f"expected at most {highest:.0%} of the last questions to fail (run.max_failed), got "
                f"{count} of {size}; the last one, {last.question.id!r}: {last.error}"
            )

    def check_unparsed(self, annotations: Sequence[Annotation], judgements: Sequence[Judgement] = ()) -> None:
        """Count sentences and facts that are about to be committed.

        Raises AnnotatorError or EvaluatorError, one line, when one of them is unparsed and too large a share is.
        """
        counts = count_unparsed(annotations, judgements)
        self._counts = added_counts(self._counts, counts)
        if not any(each.unparsed for each in counts.values()):
            return
        for annotation in annotations:
            for sentence in annotation.sentences:
                if sentence.label == UNPARSED:
                    self._refuse_unparsed("annotations", annotation, sentence.evidence)
        for judgement in judgements:
            for fact in judgement.facts:
                if fact.verdict == UNPARSED:
                    self._refuse_unparsed("judgements", judgement, fact.evidence or fact.text)

    def _refuse_unparsed(self, part: str, answer: Annotation | Judgement, said: str | None) -> None:
        config, found = self._config, self._counts[part]
        error, who, noun, option, highest = {
            "annotations": (AnnotatorError, "annotator", "sentences", "annotation", config.annotation.max_unparsed),
            "judgements": (EvaluatorError, "evaluator", "facts", "eval", config.eval.max_unparsed),
        }[part]
        if found.total >= FEWEST_PIECES and found.unparsed > highest * found.total:
            raise error(
                f"{who}: expected at most {highest:.0%} of the {noun} unparsed ({option}.max_unparsed), "
                f"got {found.unparsed} of {found.total}; one of them: question {answer.question_id!r}, "
                f"answer {answer.sample}: {said}"
            )
