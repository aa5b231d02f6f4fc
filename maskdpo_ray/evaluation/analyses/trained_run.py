"""The run that an analysis is of: its policies, their questions and answers, and the pairs that they learnt from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.models import chat, hub
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.folder import read_tokenizer, template
from maskdpo_ray.records import CommittedQuestion, PreferencePair, Question, decode
from maskdpo_ray.store import files
from maskdpo_ray.store.ledger import num_trained, read_entries
from maskdpo_ray.store.question_log import log_path, read_questions


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with at least one trained policy."""

    folder: Path
    config: Config
    after: int
    """Version of the policy that is compared with the start."""

    @classmethod
    def read(cls, folder: Path, version: int | None = None) -> TrainedRun:
        """`version`: of the policy to look at; None: the kept one. Raises UserError for what is no such run."""
        if not files.is_run_folder(folder):
            raise RunFolderError(f"{folder}: expected the folder of a run, got none")
        trained = num_trained(read_entries(folder / "ledger.jsonl"))
        if version is None:
            summary = folder / "summary.json"
            values: Any = files.read_json(summary, Any)
            try:
                version = int(values["kept"]["version"])
            except (LookupError, TypeError, ValueError):
                raise RunFolderError(f"{summary}: expected a finished run, with kept.version, got none") from None
        if not 1 <= version <= trained:
            there = f"of version 1 to {trained} (--policy)" if trained else "which the run hasn't got"
            raise RunFolderError(f"{folder}: expected a trained policy, {there}, got version {version}")
        config = cli.read(folder / "config.yaml")
        place = folder.absolute()  # which may not be where it was
        return cls(folder, replace(config, run=replace(config.run, dir=str(place.parent), name=place.name)), version)

    def policy(self, version: int) -> Path:
        """Model folder of a policy; 0: the start. Raises RunFolderError when it isn't there."""
        named = self.config.model.model_name_or_path
        place = self.folder / f"iter_{version - 1:03d}" / "policy" if version else Path(hub.here(named))
        if not os.path.isfile(place / "config.json"):
            hint = "" if version else f" (model.model_name_or_path of {self.folder / 'config.yaml'})"
            raise RunFolderError(f"{place}: expected the model's folder of policy {version}{hint}, got none")
        return place

    def chat(self) -> Chat:
        """The chat that rendered the run's prompts. Raises UserError."""
        tokenizer = read_tokenizer(self.policy(self.after))
        if self.config.model.chat_template is not None:
            tokenizer.chat_template = template(self.config.model.chat_template)
        return chat.of(self.config, tokenizer)

    def asked(self, split: str) -> dict[str, Question]:
        """The evaluated questions of a split ("heldout", "transfer") by their ids. Raises RunFolderError when none."""
        file = self.folder / f"eval_000/{split}-asked.jsonl"
        found = {each.id: each for each, _ in files.read_lines(file, lambda line: decode(Question, line))}
        if not found:
            raise RunFolderError(f"{file}: expected the questions of an evaluation, got none")
        return found

    def splits(self) -> list[str]:
        """The splits that were evaluated: `heldout` and, where there is a second domain, `transfer`."""
        return ["heldout"] + ["transfer"] * (self.folder / "eval_000/transfer-asked.jsonl").is_file()

    def answered(self, split: str, version: int) -> Iterator[CommittedQuestion]:
        """Questions with a policy's answers, those that failed left out. Raises RunFolderError when there are none."""
        file = self.folder / log_path(version, split)
        found = False
        for question in read_questions(file):
            if question.rollouts:
                found = True
                yield question
        if not found:
            raise RunFolderError(f"{file}: expected a policy's answers, got none")

    def pairs(self) -> list[PreferencePair]:
        """Pairs of the training questions, of all iterations before the policy `after`. Raises RunFolderError."""
        logs = [self.folder / log_path(iteration) for iteration in range(self.after)]
        found = [pair for log in logs for question in read_questions(log) for pair in question.preference_pairs()]
        if not found:
            raise RunFolderError(f"{self.folder}: expected pairs of training questions, got none in {logs[0]}")
        return found
