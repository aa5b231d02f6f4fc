"""Labels with the texts that they are of, a file that grows: the annotator `replay` reads it at any time.

FILE.annotator.json beside it says who labels: what one annotator has begun, another must not go on with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation.replay import LabelledAnswer
from maskdpo_ray.config.schema import AnnotationConfig
from maskdpo_ray.data import jsonl
from maskdpo_ray.errors import DataError, RunFolderError
from maskdpo_ray.records import Annotation, Labelled, Record, Rollout, encode_line
from maskdpo_ray.store import files, fingerprint, ledger
from maskdpo_ray.store.files import AppendFile
from maskdpo_ray.store.ledger import Counts


class Labeller(Record):
    """The annotator whose labels a file holds."""

    annotator: str
    options: dict[str, Any]
    files: dict[str, str]
    """Checksums by option, from `fingerprint.checksums_of`."""


class LabelsFile:
    """A context manager; nothing is written before it is entered."""

    def __init__(self, path: Path, annotation: AnnotationConfig, force: bool, inputs: Iterable[str]) -> None:
        """Read what an earlier attempt left, unless `force` is to replace it.

        Raises DataError when `path` is no file of ours, one of `inputs` or in a run folder, holds a line that is no
        annotation, or labels of another annotator or other options.
        """
        files.refuse_existing(path, force=True, inputs=inputs, grows=True)
        self.path = path
        options = json.loads(json.dumps(annotation.options or {}))
        self._by = Labeller(
            annotation.annotator, options, fingerprint.checksums_of({"annotation": {"options": options}})
        )
        self._by_file = path.with_name(f"{path.name}.annotator.json")
        files.refuse_existing(self._by_file, force=True, inputs=())
        self._done: set[bytes] = set()
        self.counts: Counts = {}
        """The sentences that an earlier attempt left, as `count_unparsed` counts them."""
        self._size = 0
        """Bytes of whole lines."""
        self._found = path.stat().st_size if path.exists() else 0
        self._file: AppendFile | None = None
        if path.exists() and not force:
            self._refuse_foreign()
            self._read()
            if self._done:  # an attempt that labelled nothing binds nobody
                self._refuse_others()

    @property
    def num_answers(self) -> int:
        """Answers with labels, equal texts to one question counted once."""
        return len(self._done)

    def holds(self, answer: Rollout) -> bool:
        """Whether this text has labels as an answer to this question."""
        return key(answer.question_id, answer.text) in self._done

    def __enter__(self) -> LabelsFile:
        """Raises RunFolderError when another process writes the file, or has since it was read."""
        file = AppendFile(self.path)
        try:
            file.hold()
            if file.size != self._found:
                raise RunFolderError(f"{self.path}: expected the {self._found} bytes that were read, got {file.size}")
            files.write_new(self._by_file, [self._by])
            file.cut(self._size)
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def append(self, item: Labelled) -> None:
        """Put a question's answers and labels on the disk."""
        if self._file is None:
            raise RuntimeError("the file is not entered: use `with LabelsFile(...) as labels`")
        lines = [LabelledAnswer.of(*each) for each in zip(item.rollouts, item.annotations, strict=True)]
        self._file.append(b"".join(map(encode_line, lines)), durable=True)
        self._done.update(key(line.question_id, line.text) for line in lines)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _refuse_foreign(self) -> None:
        if not self._by_file.exists():
            raise DataError(
                f"{self.path}: expected no such file yet, or one that annotate began, got one without "
                f"{self._by_file.name}; --force replaces it"
            )

    def _refuse_others(self) -> None:
        begun = files.read_json(self._by_file, Labeller)
        for name in ("annotator", "options"):
            before, now = getattr(begun, name), getattr(self._by, name)
            if before != now:
                raise DataError(
                    f"annotation.{name}: expected {before!r}, as {self.path} was begun with, got {now!r}; "
                    "give it back, choose another file, or replace it with --force"
                )
        if name := fingerprint.changed_files(begun.files, self._by.files):
            raise DataError(
                f"{name}: expected the file as {self.path} was begun with it, got another; "
                "give it back, choose another file, or replace it with --force"
            )

    def _read(self) -> None:
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break  # half-written when an attempt was stopped
                value = jsonl.parsed(self.path, number, raw.rstrip(b"\n"))
                line = jsonl.record(LabelledAnswer, value, f"{self.path}:{number}")
                self._done.add(key(line.question_id, line.text))
                labels = Annotation(line.question_id, line.sample, line.sentences)
                self.counts = ledger.added_counts(self.counts, ledger.count_unparsed([labels]))
                self._size += len(raw)


def key(question_id: str, text: str) -> bytes:
    """Digest of an answer, which tells it apart from all others however long it is."""
    return hashlib.blake2b(f"{len(question_id)} {question_id}{text}".encode(), digest_size=16).digest()
