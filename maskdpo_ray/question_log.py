"""Answers, labels and pairs of questions on disk: each question is one unit, there wholly or not at all.

The unit's lines are appended to the files first and the ledger last, with one fsync. The ledger line
holds where the unit ends in each file and the SHA-256 of its bytes, so that after a kill (bytes
without a ledger line) or a power loss (a ledger line without its bytes) the log is cut back to the
last unit that is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.ledger import AppendFile, Ledger, encode_line
from maskdpo_ray.records import Annotation, PreferencePair, Rollout, from_json

QUESTION = "question"
REWIND = "rewind"


class QuestionLog:
    """The questions committed under `name` ("iter_000", "eval_001/heldout")."""

    def __init__(self, name: str, paths: dict[str, Path], ledger: Ledger) -> None:
        """`paths`: the file of each part, "rollouts", "annotations" and, for training questions, "pairs".

        Cuts off what no ledger line covers; `notes` says what was cut. Raises RunFolderError when
        bytes that a finished stage was built on have changed.
        """
        self.name = name
        self.notes: list[str] = []
        self._ledger = ledger
        self._units: list[dict[str, Any]] = []
        sealed = 0
        for entry in ledger.entries:
            if entry["stage"] == QUESTION and entry["log"] == name:
                self._units.append(entry)
            elif entry["stage"] == REWIND and entry["log"] == name:
                del self._units[entry["keep"] :]
            elif "finished" in entry:
                sealed = len(self._units)
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        self._files = {part: AppendFile(path) for part, path in paths.items()}
        whole = self._count_whole()
        if whole < sealed:
            unit = self._units[whole]
            self.close()
            raise RunFolderError(
                f"{paths['rollouts'].parent}: the files of question {unit['question_id']!r} changed after "
                "a stage was built on them: expected the bytes that ledger.jsonl names; "
                "restore them or start a new run"
            )
        if whole < len(self._units):
            self.notes.append(f"{name}: {len(self._units) - whole} questions did not reach the disk and are done again")
            ledger.append({"stage": REWIND, "log": name, "keep": whole})
            del self._units[whole:]
        for part, file in self._files.items():
            if file.size > self._end(part):
                self.notes.append(f"{file.path}: cut off {file.size - self._end(part)} bytes of an unfinished question")
            file.truncate(self._end(part))
        self._committed = {unit["question_id"] for unit in self._units}

    def _end(self, part: str) -> int:
        return self._units[-1]["end"][part] if self._units else 0

    def _count_whole(self) -> int:
        start = dict.fromkeys(self._files, 0)
        for number, unit in enumerate(self._units):
            digest = hashlib.sha256()
            for part, file in self._files.items():
                digest.update(file.read(start[part], unit["end"][part]))
            if digest.hexdigest() != unit["sha256"]:
                return number
            start = unit["end"]
        return len(self._units)

    def commit(
        self,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str | None = None,
    ) -> None:
        """Write one question: its answers, labels (same order) and pair or drop reason.

        Raises ValueError when the question is there already, or rollouts and annotations do not match.
        """
        if question_id in self._committed:
            raise ValueError(f"question {question_id!r} is committed already in {self.name}")
        if [(r.question_id, r.sample) for r in rollouts] != [(a.question_id, a.sample) for a in annotations]:
            raise ValueError(f"question {question_id!r}: rollouts and annotations are not of the same answers")
        if any(r.question_id != question_id for r in rollouts):
            raise ValueError(f"question {question_id!r}: holds a rollout of another question")
        pair = outcome if isinstance(outcome, PreferencePair) else None
        if pair is not None and pair.question_id != question_id:
            raise ValueError(f"question {question_id!r}: holds a pair of question {pair.question_id!r}")
        data = {
            "rollouts": b"".join(map(encode_line, rollouts)),
            "annotations": b"".join(map(encode_line, annotations)),
        }
        if "pairs" in self._files:
            data["pairs"] = encode_line(pair) if pair else b""
        digest = hashlib.sha256()
        try:
            for part, file in self._files.items():
                digest.update(data[part])
                file.append(data[part])
            unit = {
                "stage": QUESTION,
                "log": self.name,
                "question_id": question_id,
                "count": len(rollouts),
                "drop": None if outcome is None or pair else str.__str__(outcome),  # an enum's value
                "end": {part: file.size for part, file in self._files.items()},
                "bytes": sum(map(len, data.values())),
                "sha256": digest.hexdigest(),
            }
            self._ledger.append(unit)
        except RunFolderError:
            for part, file in self._files.items():
                file.truncate(self._end(part))
            raise
        self._units.append(unit)
        self._committed.add(question_id)

    @property
    def question_ids(self) -> frozenset[str]:
        """Committed questions."""
        return frozenset(self._committed)

    def drops(self) -> Counter[str]:
        """How many questions gave no pair, by reason."""
        return Counter(unit["drop"] for unit in self._units if unit["drop"])

    def read(self, part: str, kind: type) -> Iterator[Any]:
        """The committed records of one part, in the order of commitment."""
        end, read = self._end(part), 0
        if not end:
            return
        with self._files[part].path.open("rb") as lines:
            for line in lines:
                yield from_json(kind, json.loads(line))
                read += len(line)
                if read >= end:
                    return

    def sync(self) -> None:
        """Return when every committed byte is on the disk."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
