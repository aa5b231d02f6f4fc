"""A ledger that lost lines: answers on disk that it should name and does not.

Questions are committed one after the other, and a question's ledger line is on the disk before the
next question is written. So a kill or a power loss leaves at most one question without its line, in
the whole folder; that one is cut off and done again. If there are more, the ledger lost lines, and to
cut would lose committed answers. The results of stages are not looked at: without their lines they
are made again, from the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from maskdpo_ray.entries import Entry, Unit
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store import question_log

_REMEDY = "restore the ledger or choose another run.name"


def refuse(path: Path, entries: Sequence[Entry], judged: bool) -> None:
    """Raise RunFolderError when lines are missing from the ledger in `path`, read as `entries`. Writes nothing.

    `judged`: the run has judgements of held-out answers.
    """
    ledger = path / "ledger.jsonl"
    unnamed: dict[tuple[str, str], None] = {}  # (log, question), in order
    for name in dict.fromkeys([*(e.log for e in entries if isinstance(e, Unit)), *question_log.names(path)]):
        files = question_log.files(path, name, judged)
        end = dict.fromkeys(files, 0)
        for unit in question_log.units(entries, name)[0]:
            if unit.end.keys() != end.keys() or sum(unit.end.values()) - sum(end.values()) != unit.bytes:
                raise RunFolderError(
                    f"{ledger}: expected question {unit.question_id!r} of {name} to start where the one before it "
                    f"ends, got a gap; {_REMEDY}"
                )
            end = unit.end
        unnamed |= {(name, question): None for part in files for question in _question_ids(files[part], end[part])}
    # The first line, of the opened folder, is on the disk before any answer.
    if len(unnamed) > (1 if entries else 0):
        name, question = next(iter(unnamed))
        raise RunFolderError(
            f"{ledger}: expected a line for each committed question, got none for {len(unnamed)} that are on disk, "
            f"first {question!r} of {name}; {_REMEDY}"
        )


def _question_ids(file: Path, start: int) -> Iterator[str]:
    """Of the whole lines from byte `start` on."""
    if not file.exists():
        return
    with file.open("rb") as opened:
        opened.seek(start)
        for line in opened.read().split(b"\n")[:-1]:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue  # what a power loss left in place of a line: no answer is lost with it
            if isinstance(record, dict) and "question_id" in record:
                yield str(record["question_id"])
