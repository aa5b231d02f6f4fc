"""The evaluation that another one is compared with, named by `--against FOLDER[:VERSION]`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config import file as config_file
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation.intervals import refuse_other_topics, topics_of
from maskdpo_ray.evaluation.judged_metrics import JudgedEvaluation
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import Question
from maskdpo_ray.store import files, fingerprint
from maskdpo_ray.store.ledger import Finished, find_finished, read_entries

_SAMPLING = ("temperature", "top_k", "top_p")
_JUDGES = {"annotation.annotator": "annotation.options", "eval.evaluator": "eval.options"}


@dataclass(frozen=True)
class Baseline:
    """A finished evaluation of a run folder."""

    run: Path
    version: int
    """Version of the evaluated policy."""
    other_options: tuple[str, ...]
    """Fields of the judges' options that differ from the config's."""
    other_sampling: tuple[str, ...]
    """Sampling options of the answers that differ."""

    @property
    def folder(self) -> Path:
        """Folder of the evaluation."""
        return self.run / f"eval_{self.version:03d}"

    @classmethod
    def find(cls, name: str, config: Config, questions: Mapping[str, Sequence[Question]]) -> Baseline:
        """Find FOLDER:VERSION, or the last finished version of FOLDER.

        Raises RunFolderError unless it is on the topics of `questions` (by split), by the judges of `config`, and
        unchanged since its run.
        """
        run, version = _parsed(name)
        if not files.is_run_folder(run):
            raise RunFolderError(f"--against: expected a run folder, or FOLDER:VERSION, got {name!r}")
        before = config_file.flatten(fingerprint.read_config(run / "config.yaml") or {})
        now = config_file.flatten(json.loads(json.dumps(cli.resolved(config))))
        other_options = _compare_judges(run, before, now)
        sampled = _sampling(before)
        other_sampling = tuple(name for name, value in _sampling(now).items() if sampled[name] != value)
        finished = _finished(run, questions)
        if version is None:
            version = max(finished, default=None)
        if version not in finished:
            which = "" if version is None else f" of policy {version}"
            got = f"those of policies {', '.join(map(str, sorted(finished)))}" if finished else "none"
            splits = ", ".join(questions)
            raise RunFolderError(f"--against: {run}: expected a finished evaluation ({splits}){which}, got {got}")
        found = cls(run, version, other_options, other_sampling)
        for entry, (split, asked) in zip(finished[version], questions.items(), strict=True):
            files.check_proof(run, entry.files, f"stage {entry.stage!r}")
            found._refuse_other_topics(f"{split}.json", Evaluation, asked)
            if config.eval.is_judged:
                found._refuse_other_topics(f"{split}-judged.json", JudgedEvaluation, asked)
        return found

    def _refuse_other_topics(self, name: str, kind: Any, asked: Sequence[Question]) -> None:
        file = self.folder / name
        try:
            found = files.read_json(file, kind)
            refuse_other_topics([*found.topic_sums, *found.left_out], topics_of(asked).values())
        except ValueError as error:
            raise RunFolderError(f"--against: {file}: {error}") from None


def _parsed(name: str) -> tuple[Path, int | None]:
    folder, _, version = name.rpartition(":")
    if os.path.isdir(name) or not re.fullmatch("[0-9]{1,9}", version):
        return Path(name), None
    return Path(folder), int(version)


def _sampling(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling options of evaluated answers: those of `eval`, by default those of `rollout`."""
    own = {name: flat.get(f"eval.{name}") for name in _SAMPLING}
    return {f"eval.{name}": flat.get(f"rollout.{name}") if value is None else value for name, value in own.items()}


def _compare_judges(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the options that differ. Raises RunFolderError when a judge does."""
    for judge in (*_JUDGES, "eval.perplexity_model"):
        if before.get(judge) != now[judge]:
            raise RunFolderError(
                f"{judge}: expected {before.get(judge)!r}, as in {run} (--against), got {now[judge]!r}"
            )

    def of(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
        return {key: value for key, value in flat.items() if key.startswith(name) and value not in (None, {})}

    return tuple(options for options in _JUDGES.values() if of(before, options) != of(now, options))


def _finished(run: Path, splits: Mapping[str, Any]) -> dict[int, list[Finished]]:
    """Policy version -> the ledger's entry of each split, for versions with an entry of every split."""
    entries = read_entries(run / "ledger.jsonl")
    finished = {}
    for version in {entry.iteration for entry in entries if isinstance(entry, Finished)}:
        found = [find_finished(entries, f"evaluate-{split}", version) for split in splits]
        if all(found):
            finished[version] = [entry for entry in found if entry is not None]
    return finished
