"""The run folder: all outputs of a run, from which an interrupted run resumes.

config.yaml      resolved config; versions and git commit as comments (the ledger has them as data)
ledger.jsonl     what is committed: questions, finished stages with the SHA-256 of their files
metrics.jsonl    metrics over time (tracking.py)
iter_000/        rollouts-000.jsonl annotations-000.jsonl pairs.jsonl pairs-summary.json
                 reference-logps.safetensors policy/ (a Hugging Face folder)
                 checkpoint/ (DeepSpeed's, until the policy is there: checkpoints.py)
eval_000/        evaluation of policy version 0 (before training): heldout.json, heldout-rollouts.jsonl,
                 heldout-annotations.jsonl, from version 1 on heldout-gain.json; with a second evaluator
                 or a perplexity model heldout-judgements.jsonl and heldout-judged*.json; the same for transfer
summary.json     written at the end; error.log when the last attempt failed; run.lock while one runs

The run folder of a command: of the loop, or of one of its stages.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import SCHEMA_VERSION, Annotation, Judgement, Policy, PreferencePair, Record, Rollout
from maskdpo_ray.store import checkpoints, fingerprint, question_log
from maskdpo_ray.store import files as run_lock
from maskdpo_ray.store.fingerprint import Questions
from maskdpo_ray.store.ledger import (
    Counts,
    Entry,
    Finished,
    Ledger,
    Opened,
    Unit,
    encode_line,
    find_finished,
    read_entries,
    sync_folder,
)
from maskdpo_ray.store.question_log import Committer, QuestionLog
from maskdpo_ray.store.tracking import Tracker


class RunFolder:
    """Open one with `RunFolder.open`; one process at a time. Not thread-safe."""

    def __init__(self, path: Path, lock: int, ledger: Ledger, resumed: bool, config: dict[str, Any]) -> None:
        self.path = path
        self._config = config
        self._judged = _is_judged(config)
        self.resumed = resumed
        """Whether the folder was there before."""
        self.notes: list[str] = []
        """What was found damaged by a kill and cut off, one line each."""
        self._lock = lock
        self._ledger = ledger
        self._logs: dict[str, QuestionLog] = {}
        if ledger.torn:
            self.notes.append(f"{path / 'ledger.jsonl'}: cut off {ledger.torn} bytes of a half-written line")
        try:
            for name in ledger.unsealed():
                self._log(name)
        except BaseException:
            self._close_logs()
            ledger.close()
            raise

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], config: dict[str, Any], package_versions: dict[str, str] | None = None
    ) -> RunFolder:
        """Create the folder, or resume in it.

        `config` is the resolved config as nested dicts; `package_versions` defaults to
        `stored_config.versions()`.
        Raises RunFolderError when the config differs in a field that must not change, when another
        process writes the folder, when it is somebody else's folder, or when its files are damaged
        in a way that no kill leaves.
        """
        path, config = Path(path).absolute(), _as_stored(config)
        package_versions = fingerprint.versions() if package_versions is None else package_versions
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(path)
            lock = run_lock.hold_lock(path)
        except OSError as error:
            raise RunFolderError(f"{error.filename or path}: can't be written: {error.strerror}") from error
        try:
            changed, _ = _read(path, config)
            ledger = Ledger(path / "ledger.jsonl")
            folder = cls(path, lock, ledger, resumed=changed is not None, config=config)
            if changed is None or changed:
                run_lock.write_whole(path / "config.yaml", fingerprint.config_text(config, package_versions))
            folder._ledger.append(
                Opened(
                    time=time.time(),
                    schema=SCHEMA_VERSION,
                    pid=os.getpid(),
                    host=socket.gethostname(),
                    versions=package_versions,
                    changed=changed or {},
                )
            )
            folder.drop_checkpoints()  # a kill may have come between a policy and their end
        except BaseException:
            os.close(lock)
            raise
        return folder

    @staticmethod
    def check(path: str | os.PathLike[str], config: dict[str, Any], questions: Questions | None = None) -> list[Entry]:
        """Refuse, as far as can be seen while nothing is left behind, what `open` and `begin` (with `questions`) would.

        Returns the entries of the ledger. Raises RunFolderError.
        """
        path = Path(path).absolute()
        try:
            nearest = _writable(path)
            if nearest != path:
                return []
            run_lock.refuse_held(path)
            _refuse_strangers(path)
            _, entries = _read(path, _as_stored(config))
            if questions is not None and (begun := find_finished(entries, "begin", 0)):
                fingerprint.refuse_other_questions(path, begun.facts, questions)
                fingerprint.refuse_other_files(path, begun.facts, config)
            if policies := [entry for entry in entries if isinstance(entry, Finished) and entry.stage == "train"]:
                # The one that a resumed run starts from; its hash, which takes long, when it is loaded.
                run_lock.check_proof(path, policies[-1].files, "stage 'train'", with_hash=False)
            return entries
        except OSError as error:
            raise RunFolderError(f"{error.filename or path}: can't be used: {error.strerror}") from error

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and let another process in. A second call does nothing."""
        self._close_logs()
        self._ledger.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close_logs(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    # Places

    def iteration_dir(self, iteration: int) -> Path:
        """iter_000, made when missing."""
        return self._dir(f"iter_{iteration:03d}")

    def policy_dir(self, iteration: int) -> Path:
        """Where iteration `iteration` leaves its policy (version iteration + 1). Not made."""
        return self.iteration_dir(iteration) / "policy"

    def checkpoint_dir(self, iteration: int) -> Path:
        """Where the training of iteration `iteration` leaves its checkpoints. Not made."""
        return self.path / f"iter_{iteration:03d}" / "checkpoint"

    def evaluation_dir(self, version: int) -> Path:
        """eval_000: evaluation of policy version `version`, made when missing."""
        return self._dir(f"eval_{version:03d}")

    def _dir(self, name: str) -> Path:
        folder = self.path / name
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path)
        return folder

    # Questions of an iteration

    def commit_question(
        self,
        iteration: int,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        outcome: PreferencePair | str,
    ) -> None:
        """Put a question's answers, labels and pair (or drop reason) on disk as one unit."""
        self._training_log(iteration).commit(question_id, rollouts, annotations, outcome)

    def committing(self, iteration: int) -> Committer:
        """To commit many questions: beside the work on the next ones, those that end meanwhile together."""
        return Committer(self._training_log(iteration))

    def committed_questions(self, iteration: int) -> frozenset[str]:
        """Ids of the questions that need not be done again."""
        return self._training_log(iteration).question_ids

    def set_aside_question(self, iteration: int, question_id: str, error: str) -> None:
        """Note that a question failed and gives no pair; `drops` counts it."""
        self._training_log(iteration).set_aside(question_id, error)

    def errors(self, iteration: int) -> dict[str, str]:
        """Question -> error, of those that failed."""
        return self._training_log(iteration).errors()

    def pairs(self, iteration: int) -> Iterator[PreferencePair]:
        """Committed pairs in the order of commitment, which depends on timing: sort before use."""
        return self._training_log(iteration).read("pairs", PreferencePair)

    def drops(self, iteration: int) -> Counter[str]:
        """Questions without a pair, by reason."""
        return self._training_log(iteration).drops()

    # Answers of an evaluation

    def commit_answers(
        self,
        version: int,
        split: str,
        question_id: str,
        rollouts: Sequence[Rollout],
        annotations: Sequence[Annotation],
        judgements: Sequence[Judgement] = (),
    ) -> None:
        """Put one evaluated question of `split` ("heldout", "transfer") on disk as one unit."""
        log = self._evaluation_log(version, split)
        log.commit(question_id, rollouts, annotations, judgements=judgements)

    def committed_answers(self, version: int, split: str) -> frozenset[str]:
        """Ids of the evaluated questions that need not be done again."""
        return self._evaluation_log(version, split).question_ids

    def set_aside_answers(self, version: int, split: str, question_id: str, error: str) -> None:
        """Note that a question failed and has no answers."""
        self._evaluation_log(version, split).set_aside(question_id, error)

    def evaluation_errors(self, version: int, split: str) -> dict[str, str]:
        """Question -> error, of those that failed."""
        return self._evaluation_log(version, split).errors()

    def answers(self, version: int, split: str) -> Iterator[tuple[Rollout, Annotation]]:
        """Committed answers with their labels, in the order of commitment."""
        log = self._evaluation_log(version, split)
        return zip(log.read("rollouts", Rollout), log.read("annotations", Annotation), strict=True)

    def judgements(self, version: int, split: str) -> Iterator[Judgement]:
        """Committed judgements of a run that has them, in the order of commitment."""
        return self._evaluation_log(version, split).read("judgements", Judgement)

    def _training_log(self, iteration: int) -> QuestionLog:
        return self._log(f"iter_{iteration:03d}")

    def _evaluation_log(self, version: int, split: str) -> QuestionLog:
        return self._log(f"eval_{version:03d}/{split}")

    def _log(self, name: str) -> QuestionLog:
        if name not in self._logs:
            self._dir(name.partition("/")[0])
            self._logs[name] = QuestionLog(self.path, name, self._ledger, self._judged)
            self.notes.extend(self._logs[name].notes)
        return self._logs[name]

    def counts(self) -> Counts:
        """The sentences and facts of all that is committed."""
        return self._ledger.counts()

    # Stages

    def begin(self, initial: Policy, questions: Questions, rendered_at: datetime | None = None) -> None:
        """Record the inputs of the run's beginning; `rendered_at`: see `Chat.now`.

        Raises RunFolderError when it began with other weights or questions, or other files that the options name.
        """
        begun = self.finished("begin", 0)
        if begun is None:
            self.finish("begin", 0, **fingerprint.facts(initial, questions, self._config, rendered_at))
        else:
            fingerprint.refuse_other_weights(self.path, begun, initial)
            fingerprint.refuse_other_questions(self.path, begun, questions)
            fingerprint.refuse_other_files(self.path, begun, self._config)

    def finish(self, stage: str, iteration: int, files: Iterable[str | os.PathLike[str]] = (), **facts: Any) -> None:
        """Say in the ledger that `stage` ("train", "evaluate", ...) of `iteration` is done.

        `files` are what it produced (files, or folders taken with all they hold); they are on the
        disk, and their sizes and SHA-256 in the ledger, when this returns. `facts` are JSON values
        that `finished` gives back. For "evaluate", `iteration` is the policy version.
        """
        for log in self._logs.values():
            log.sync()
        proofs = run_lock.prove(self.path, files)
        self._ledger.append(Finished(stage=stage, iteration=iteration, finished=time.time(), facts=facts, files=proofs))
        self._close_logs()  # opened again when asked for: the number of open files does not grow

    def drop_checkpoints(self) -> None:
        """Remove those of trainings that are finished: their policy takes their place."""
        for entry in self._ledger.finished:
            if entry.stage == "train":
                checkpoints.remove(self.checkpoint_dir(entry.iteration))

    def finished(self, stage: str, iteration: int) -> dict[str, Any] | None:
        """The facts of a finished stage, None when it is not finished."""
        entry = find_finished(self._ledger.finished, stage, iteration)
        return None if entry is None else entry.facts

    def check_files(self, stage: str, iteration: int) -> None:
        """Compare the files of a finished stage with the ledger.

        Raises RunFolderError naming the first that differs, ValueError when the stage is not finished.
        """
        entry = find_finished(self._ledger.finished, stage, iteration)
        if entry is None:
            raise ValueError(f"stage {stage!r} of iteration {iteration} is not finished")
        run_lock.check_proof(self.path, entry.files, f"stage {stage!r}")

    def write_json(self, relative: str, value: Any) -> Path:
        """Write a record or JSON values (NaN raises ValueError): after a kill the old file is there or the new one."""
        target = self.path / relative
        run_lock.write_whole(target, encode_line(value))
        return target

    def read_json(self, relative: str, kind: type[Record]) -> Record:
        """The record that `write_json` wrote. Raises RunFolderError when it is not there, or damaged."""
        return run_lock.read_json(self.path / relative, kind)


def _as_stored(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config))  # tuples become lists, as they come back from YAML


def _is_judged(config: dict[str, Any]) -> bool:
    options = config.get("eval", {})
    return any(options.get(name) is not None for name in ("evaluator", "perplexity_model"))


def _read(path: Path, config: dict[str, Any]) -> tuple[dict[str, Any] | None, list[Entry]]:
    """(what differs from the config that the run began with, None for a new run; the ledger's entries).

    Raises RunFolderError when that must not differ, or the folder does not hold what the entries say.
    """
    entries = read_entries(path / "ledger.jsonl")
    changed = _changes(path, config, entries)
    judged = _is_judged(config)
    question_log.refuse_lost_lines(path, entries, judged)
    for name in dict.fromkeys(entry.log for entry in entries if isinstance(entry, Unit)):
        question_log.refuse_short(path, name, entries, judged)
    for entry in entries:
        # Small files, read by every later gain and by the summary; a policy is checked where it is loaded.
        if isinstance(entry, Finished) and entry.stage.startswith("evaluate-"):
            run_lock.check_proof(path, entry.files, f"stage {entry.stage!r}")
    return changed, entries


def _changes(path: Path, config: dict[str, Any], entries: Sequence[Entry]) -> dict[str, Any] | None:
    """What differs from the config that the run began with, None for a new run. Raises RunFolderError."""
    stored = fingerprint.read_config(path / "config.yaml")
    if stored is None:
        return None
    # Not before its first stage: a run that found no cluster at the address, say, binds nobody to its config.
    has_begun = any(not isinstance(entry, Opened) for entry in entries)
    begun = find_finished(entries, "begin", 0)
    return fingerprint.refuse_changes(path, stored, config, has_begun, fingerprint.has_moved(begun, config))


def _writable(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there. Raises RunFolderError unless files can be put into it."""
    nearest = next(folder for folder in (path, *path.parents) if folder.exists() or folder.is_symlink())
    if not nearest.is_dir():
        got = "a file" if nearest.exists() else "a link to nothing"
        raise RunFolderError(f"{path}: expected a folder, {nearest} is {got}")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return nearest
    except OSError as error:
        raise RunFolderError(f"{path}: expected a place to write to, got: {error.strerror} ({nearest})") from error


def _refuse_strangers(path: Path) -> None:
    """Raise RunFolderError when `path` holds anything and no ledger, which is there before all else but the lock."""
    if (path / "ledger.jsonl").exists():
        return
    if strangers := sorted(file.name for file in path.iterdir() if file.name != run_lock.LOCK_NAME):
        raise RunFolderError(
            f"{path}: expected an empty folder, or one of a run, got {strangers[0]!r} and no ledger.jsonl; "
            "choose another run.name, or restore the ledger if it was one"
        )


def run_path(config: Config) -> Path:
    """Where it lies."""
    return Path(config.run.dir) / config.run.name


def check_run(config: Config, inputs: Questions) -> list[Entry]:
    """Refuse, while nothing is left behind, what `opened` and `RunFolder.begin` would.

    Returns the entries of its ledger. Raises UserError.
    """
    Tracker(run_path(config), config.logger, cli.resolved(config)).check()
    return RunFolder.check(run_path(config), cli.resolved(config), inputs)


@contextmanager
def open_run(config: Config) -> Iterator[tuple[RunFolder, Tracker]]:
    """Run folder and metrics; prints what there is to note of the folder. Raises RunFolderError as its `open` does."""
    resolved = cli.resolved(config)
    with (
        RunFolder.open(run_path(config), resolved) as folder,
        Tracker(run_path(config), config.logger, resolved) as tracker,
    ):
        for note in folder.notes:
            print(note, flush=True)
        yield folder, tracker
