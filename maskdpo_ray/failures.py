"""Questions that failed: set aside one by one, until too many of them say that something else is wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from maskdpo_ray.errors import ClusterError
from maskdpo_ray.report.progress import note
from maskdpo_ray.stages.protocols import Failed, Labelled

WINDOW = 100
"""Questions, the last ones, that the share is of: late in a long run too, a fault that meets all is seen soon."""
FEWEST = 20
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
        if sum(self._last) > self._highest * max(len(self._last), FEWEST):
            raise ClusterError(
                f"expected at most {self._highest:.0%} of the last questions to fail (run.max_failed), got "
                f"{sum(self._last)} of {len(self._last)}; the last one, {last.question.id!r}: {last.error}"
            )
