"""The run folder: all outputs of a run, from which an interrupted run resumes. docs/run-folder.md lists its files."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import SCHEMA_VERSION, Decoded, Policy, Record, encode_line, encode_record
from maskdpo_ray.store import checkpoints, files, fingerprint, question_log
from maskdpo_ray.store.fingerprint import Questions
from maskdpo_ray.store.ledger import (
    Counts,
    Entry,
    Finished,
    Ledger,
    Opened,
    added_counts,
    find_finished,
    num_trained,
    read_entries,
    sealed_logs,
)
from maskdpo_ray.store.question_log import QuestionLog
from maskdpo_ray.store.tracking import Tracker


class RunFolder:
    """Open one with `RunFolder.open`; one process at a time. Not thread-safe."""

    def __init__(self, path: Path, lock: int, ledger: Ledger, resumed: bool, config: dict[str, Any]) -> None:
        self.path = path
        self._config = config
        self.resumed = resumed
        """Whether the folder was there before."""
        self.notes: list[str] = []
        """Damage by a kill that was cut off, one line each."""
        self._lock = lock
        self._ledger = ledger
        self._sealed = sealed_logs(ledger.entries)
        self._logs: dict[str, QuestionLog] = {}
        if ledger.torn:
            self.notes.append(f"{path / 'ledger.jsonl'}: cut off {ledger.torn} bytes of a half-written line")
        try:
            for name, size in question_log.log_sizes(path).items():
                if name not in self._sealed or self._sealed[name].bytes != size:
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
        `fingerprint.versions()`.
        Raises RunFolderError when the config differs in a field that must not change, when another
        process writes the folder, when it is somebody else's folder, or when its files are damaged
        in a way that no kill leaves.
        """
        path, config = Path(path).absolute(), _as_stored(config)
        package_versions = dict(fingerprint.versions()) if package_versions is None else package_versions
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(path)
            lock = files.hold_lock(path)
        except OSError as error:
            raise RunFolderError(f"{error.filename or path}: can't be written: {error.strerror}") from error
        try:
            changed, _ = _read(path, config)
            ledger = Ledger(path / "ledger.jsonl")
            folder = cls(path, lock, ledger, resumed=changed is not None, config=config)
            if changed is None or changed:
                files.write_whole(path / "config.yaml", fingerprint.config_text(config, package_versions))
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
            files.refuse_held(path)
            _refuse_strangers(path)
            _, entries = _read(path, _as_stored(config))
            if questions is not None and (begun := find_finished(entries, "begin", 0)):
                fingerprint.refuse_other_questions(path, begun.facts, questions)
                fingerprint.refuse_other_files(path, begun.facts, config)
            if policies := [entry for entry in entries if isinstance(entry, Finished) and entry.stage == "train"]:
                # The one that a resumed run starts from; its hash, which takes long, when it is loaded.
                files.check_proof(path, policies[-1].files, "stage 'train'", with_hash=False)
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
        """Folder of the policy that iteration `iteration` leaves (version iteration + 1). Not made."""
        return self.iteration_dir(iteration) / "policy"

    def link_policy(self, place: Path) -> None:
        """Let `policy` lead to this folder, relative to the run folder unless absolute. Raises RunFolderError."""
        files.link(self.path / "policy", place)

    def checkpoint_dir(self, iteration: int) -> Path:
        """Folder of the checkpoints of iteration `iteration`. Not made."""
        return self.path / f"iter_{iteration:03d}" / "checkpoint"

    def evaluation_dir(self, version: int) -> Path:
        """eval_000: evaluation of policy version `version`, made when missing."""
        return self._dir(f"eval_{version:03d}")

    def _dir(self, name: str) -> Path:
        folder = self.path / name
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            files.sync_folder(self.path)
        return folder

    def questions(self, iteration: int, source: str | None = None) -> QuestionLog:
        """Questions of an iteration, with answers, labels and pairs: the training questions, or those of a source."""
        return self._log(question_log.log_path(iteration, source=source))

    def evaluated(self, version: int, split: str) -> QuestionLog:
        """Questions of `split` ("heldout", "transfer") that policy `version` answered."""
        return self._log(question_log.log_path(version, split))

    def _log(self, name: str) -> QuestionLog:
        if name not in self._logs:
            self._dir(name.partition("/")[0])
            judged = name.startswith("eval_") and _is_judged(self._config)
            self._logs[name] = QuestionLog(self.path / name, self._sealed.get(name), judged)
            self.notes.extend(self._logs[name].notes)
        return self._logs[name]

    def counts(self) -> Counts:
        """The sentences and facts of all that is committed."""
        found = {name: seal.counts for name, seal in self._sealed.items()}
        return added_counts(*{**found, **{name: log.counts for name, log in self._logs.items()}}.values())

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

    def finish(self, stage: str, iteration: int, left: Iterable[str | os.PathLike[str]] = (), **facts: Any) -> None:
        """Say in the ledger that `stage` ("train", "evaluate", ...) of `iteration` is done.

        `left` is what it produced (files, or folders taken with all they hold); it is on the
        disk, with sizes and SHA-256 in the ledger, when this returns. `facts` are JSON values
        that `finished` gives back. For "evaluate", `iteration` is the policy version.
        """
        proofs = files.prove(self.path, left)
        seals = {name: log.seal() for name, log in self._logs.items()}
        logs = {name: seal for name, seal in seals.items() if seal.bytes and seal != self._sealed.get(name)}
        self._ledger.append(
            Finished(stage=stage, iteration=iteration, finished=time.time(), facts=facts, files=proofs, logs=logs)
        )
        self._sealed |= logs
        self._close_logs()  # opened again when asked for: the number of open files does not grow

    def drop_checkpoints(self) -> None:
        """Remove those of trainings that are finished: their policy takes their place."""
        for entry in self._ledger.entries:
            if isinstance(entry, Finished) and entry.stage == "train":
                checkpoints.remove(self.checkpoint_dir(entry.iteration))

    def finished(self, stage: str, iteration: int) -> dict[str, Any] | None:
        """The facts of a finished stage, None when it is not finished."""
        entry = find_finished(self._ledger.entries, stage, iteration)
        return None if entry is None else entry.facts

    @property
    def num_trained(self) -> int:
        """Number of iterations whose training is finished: the version of the newest policy."""
        return num_trained(self._ledger.entries)

    def check_files(self, stage: str, iteration: int) -> None:
        """Compare the files of a finished stage with the ledger.

        Raises RunFolderError naming the first that differs, ValueError when the stage is not finished.
        """
        entry = find_finished(self._ledger.entries, stage, iteration)
        if entry is None:
            raise ValueError(f"stage {stage!r} of iteration {iteration} is not finished")
        files.check_proof(self.path, entry.files, f"stage {stage!r}")

    def write_json(self, relative: str, value: Any) -> Path:
        """Write a record or JSON values (NaN raises ValueError): after a kill the old file is there or the new one."""
        target = self.path / relative
        files.write_whole(target, encode_line(value))
        return target

    def write_lines(self, relative: str, records: Iterable[Record]) -> Path:
        """Write records, one a line: after a kill the old file is there or the new one."""
        target = self.path / relative
        files.write_whole(target, b"".join(map(encode_record, records)))
        return target

    def read_json(self, relative: str, kind: type[Decoded]) -> Decoded:
        """The record that `write_json` wrote. Raises RunFolderError when it is not there, or damaged."""
        return files.read_json(self.path / relative, kind)


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
    _refuse_fewer_iterations(path, config, entries)
    question_log.refuse_damage(path, entries)
    for entry in entries:
        # Small files, read by every later gain and by the summary; a policy is checked where it is loaded.
        if isinstance(entry, Finished) and entry.stage.startswith("evaluate-"):
            files.check_proof(path, entry.files, f"stage {entry.stage!r}")
    return changed, entries


def _refuse_fewer_iterations(path: Path, config: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Raise RunFolderError when a run would end before a policy that it has trained."""
    done, wanted = num_trained(entries), config.get("run", {}).get("iterations")
    if wanted is not None and wanted < done:
        raise RunFolderError(
            f"run.iterations: expected at least {done}, as many as the run in {path} has done, got {wanted}; "
            f"evaluate an earlier policy on its own, or choose another run.name"
        )


def _changes(path: Path, config: dict[str, Any], entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Differences from the config that the run began with, None for a new run. Raises RunFolderError."""
    stored = fingerprint.read_config(path / "config.yaml")
    if stored is None:
        return None
    # Not before its first stage: a run that found no cluster at the address, say, binds nobody to its config.
    has_begun = any(isinstance(entry, Finished) for entry in entries) or bool(question_log.log_sizes(path))
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
    if strangers := sorted(file.name for file in path.iterdir() if file.name != files.LOCK_NAME):
        raise RunFolderError(
            f"{path}: expected an empty folder, or one of a run, got {strangers[0]!r} and no ledger.jsonl; "
            "choose another run.name, or restore the ledger if it was one"
        )


def run_path(config: Config) -> Path:
    """Path of the run folder that the config names."""
    return Path(config.run.dir) / config.run.name


def check_run(config: Config, inputs: Questions) -> list[Entry]:
    """Refuse, while nothing is left behind, what `open_run` and `RunFolder.begin` would.

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
