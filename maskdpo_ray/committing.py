"""Questions go to the disk beside the work on the next ones: those that end meanwhile share one wait for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from types import TracebackType

from maskdpo_ray.records import Annotation, PreferencePair, Rollout
from maskdpo_ray.store.question_log import Encoded, QuestionLog

_MOST = 256
"""Questions that wait for the disk at a time."""


class Committer:
    """A context manager. When it is left, after an error too, all questions that it was given are on the disk.

    Meanwhile nobody else may write to the run folder's ledger.
    """

    def __init__(self, log: QuestionLog) -> None:
        self._log = log
        self._waiting: queue.Queue[Encoded | None] = queue.Queue(_MOST)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="commit", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def commit(
        self,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str,
    ) -> None:
        """Take a question, which is committed soon. Raises RunFolderError when an earlier one could not be."""
        question = self._log.encode(question_id, rollouts, annotations, outcome)
        if self._failure is not None:
            raise self._failure
        self._waiting.put(question)

    def _write(self) -> None:
        is_last = False
        while not is_last:
            together = [self._waiting.get()]
            while not self._waiting.empty():
                together.append(self._waiting.get())
            is_last = together[-1] is None
            if self._failure is None:  # else only make room for whoever puts
                try:
                    self._log.commit_all([question for question in together if question is not None])
                except BaseException as error:
                    self._failure = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure
