"""What a run began with: the weights, the questions or pairs, and the files that its options name.

It resumes with the same ones only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from maskdpo_ray import named_files
from maskdpo_ray.entries import Finished
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.policy import Policy
from maskdpo_ray.records import to_json
from maskdpo_ray.store import fingerprint

_MODEL_FILES = (".json", ".jinja", ".model", ".txt")
Questions = Mapping[str, Sequence[Any]]
"""By split: `train`, `heldout` and, when there is a second domain, `transfer`. Of `maskdpo_ray.train` only `pairs`,
examples; of `maskdpo_ray.evaluate` no `train`, but `answers` where they were given."""


def facts(
    initial: Policy, questions: Questions, config: Mapping[str, Any], rendered_at: datetime | None
) -> dict[str, Any]:
    """The facts of a run's beginning that the ledger keeps, as JSON values.

    Args:
        config: resolved, as nested dicts.
        rendered_at: `Chat.now`; None if nothing is rendered.
    """
    return {
        "rendered_at": None if rendered_at is None else rendered_at.isoformat(),
        "checksum": initial.checksum,
        "model_files": _model_files(initial),
        "questions": {split: _checksum(asked) for split, asked in questions.items()},
        "named_files": named_files.checksums(config),
    }


def rendered_at(path: Path) -> datetime | None:
    """Date and time that the run in `path` gave its chat template when it began; None before that."""
    try:
        with (path / "ledger.jsonl").open("rb") as ledger:
            for line in ledger:
                entry = json.loads(line)
                if entry["stage"] == "begin":
                    given = entry["facts"].get("rendered_at")  # earlier versions did not keep it
                    return None if given is None else datetime.fromisoformat(given)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # `RunFolder.check` reports a damaged ledger
    return None


def has_moved(begun: Finished | None, config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether an option names the same content as when the run began, at another path, or is compared later here."""

    @cache
    def now() -> dict[str, str]:
        return named_files.checksums(config)

    before = (begun.facts.get("named_files") or {}) if begun else {}
    return lambda name: name in fingerprint.BY_CONTENT or (name in before and before[name] == now().get(name))


def refuse_other_weights(path: Path, begun: Mapping[str, Any], initial: Policy) -> None:
    """Raise RunFolderError when the run in `path` began, as the facts `begun` say, with another model: weights,
    tokenizer, chat template or config.
    """
    if begun["checksum"] != initial.checksum:
        raise RunFolderError(
            f"model.model_name_or_path: expected the weights {begun['checksum'][:12]}... that the run in "
            f"{path} began with, got {initial.checksum[:12]}... in {initial.path}"
        )
    now = _model_files(initial)
    if name := named_files.changed(begun.get("model_files"), now):
        raise RunFolderError(
            f"model.model_name_or_path: expected {Path(initial.path) / name} as the run in {path} began with it, "
            f"got {'another' if name in now else 'none'}"
        )


def refuse_other_questions(path: Path, begun: Mapping[str, Any], questions: Questions) -> None:
    """Raise RunFolderError naming a split whose questions, or whose order, the run in `path` did not begin with."""
    before = begun.get("questions")
    if before is None:  # runs of earlier versions did not keep it
        return
    now = {split: _checksum(asked) for split, asked in questions.items()}
    for split in [*now, *before]:
        if before.get(split) != now.get(split):
            what = split if split in ("pairs", "answers") else f"data, {split} questions"
            got = "others" if split in now else "none"
            raise RunFolderError(
                f"{what}: expected those that the run in {path} began with, got {got}; "
                "give them back or choose another run.name"
            )


def refuse_other_files(path: Path, begun: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise RunFolderError naming an option whose file held something else when the run in `path` began."""
    if name := named_files.changed(begun.get("named_files"), named_files.checksums(config)):
        raise RunFolderError(
            f"{name}: expected the file as the run in {path} began with it, got another; "
            "give it back or choose another run.name"
        )


def _model_files(initial: Policy) -> dict[str, str]:
    """Name -> SHA-256 of what decides, beside the weights, how a prompt is read and an answer ends."""
    files = sorted(file for file in Path(initial.path).glob("*") if file.suffix in _MODEL_FILES and file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _checksum(asked: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for record in asked:
        digest.update(json.dumps(to_json(record), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
