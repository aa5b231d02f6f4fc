"""Progress of a run as its files tell, and nothing else: for the terminal view, for a page that refreshes itself.

`ProgressReader(folder).read()` gives a `Progress`, whose `to_json` is plain JSON values: the run's state and its last
sign of life, the stages under way with what is done of them, their rates and the time that they still take, curves,
idle shares, the last pairs, failures, and when it has ended what it came to. Each read after the first one takes in
what was added since, so the run may be long and the reads frequent; the run itself is neither asked nor disturbed, and
may be on another machine. All texts are as in the files: escape them where you show them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import RunFolderError, described
from maskdpo_ray.records import EVALUATE, CommittedQuestion, decode, to_json
from maskdpo_ray.report import verdict as verdicts
from maskdpo_ray.store import files, fingerprint
from maskdpo_ray.store.files import LockHolder
from maskdpo_ray.store.ledger import Entry, Finished, Opened, find_finished, num_trained, read_entries
from maskdpo_ray.store.question_log import log_path
from maskdpo_ray.store.tail import Tail

RUNNING, UNSEEN, STOPPED, FAILED, FINISHED = "running", "unseen", "stopped", "failed", "finished"
"""States of a run. `unseen`: it was started on another machine, so that only its last sign of life tells."""
_COLLECT, _TRAIN, _WHOLE = "collect", "train", "iteration"
_RECENT_S = 120.0
"""Seconds that a rate covers, when so much was seen."""
_TAIL_BYTES, _BLOCKS = 2**22, 4
_RECENT_QUESTIONS = 16
_MOST_POINTS = 200
_MOST_TEXT = 2000


@dataclass(frozen=True)
class StageProgress:
    """A stage under way, or that was when the run stopped."""

    name: str
    """Name in metrics.jsonl and mostly in the ledger: "collect", "train", "evaluate-heldout"; "start" starts actors."""
    step: int
    """The iteration; of an evaluation, the version of the policy."""
    begun: float
    """Unix seconds, when the present process began or resumed it."""
    total: int | None
    """Questions, training steps or examples; None where nothing is counted."""
    done: int | None
    """How many of them are committed, in all attempts together; None where no file tells."""
    unit: str
    """Noun of what is counted: "questions", "steps" or "examples"; "" where nothing is."""
    per_second: float | None
    """Rate over the last two minutes, or since the stage began."""
    tokens_per_second: float | None
    """Tokens of answers, or tokens with weight in training."""
    seconds_left: float | None


@dataclass(frozen=True)
class SeenPair:
    """A pair that was committed a moment ago; a side is empty where the pair has none. Texts are cut where long."""

    question_id: str
    topic: str
    chosen: str
    chosen_score: float | None
    rejected: str
    rejected_score: float | None


@dataclass(frozen=True)
class Progress:
    """A run at a moment."""

    name: str
    folder: str
    state: str
    """One of `running`, `unseen`, `stopped`, `failed`, `finished`."""
    since: float | None
    """Unix seconds: when its process started, was last heard of, or ended."""
    sign_of_life: float | None
    """Unix seconds: when the run last wrote something."""
    now: float
    """Unix seconds of this reading."""
    process: str
    """The process that opened the folder last, and its machine; "" where nobody knows."""
    num_starts: int
    """Processes that opened the folder so far: more than one when the run was resumed or extended."""
    num_trained: int
    """Iterations whose training is finished."""
    iterations: int | None
    """`run.iterations`; None before a run has begun, and for a single evaluation or training."""
    last_finished: str | None
    """The stage that was finished last, with its iteration."""
    stages: list[StageProgress]
    """Stages under way, the outer ones first."""
    curves: dict[str, list[tuple[int, float]]]
    """Name -> (step, value): "eval/heldout/score" by policy, "train/loss" by training step; "train/margin" is the
    reward of chosen answers less that of rejected ones. At most 200 points each: means of neighbours where there were
    more."""
    idle: dict[str, float]
    """Group of actors -> share of the last whole iteration without work."""
    restarts: dict[str, int]
    """Group of actors -> actors that were replaced."""
    num_failed: int
    """Training questions that were set aside, of iterations that are collected."""
    last_failure: str | None
    """Error of a question that failed, among the last ones of the log."""
    error: str | None
    """Last line of error.log, when the last attempt failed."""
    pairs: list[SeenPair]
    """The newest pairs, the last one first."""
    verdict: list[str]
    """Verdict on a finished run in words: the headline, what is behind it, which policy to ship, warnings."""
    notes: list[str] = field(default_factory=list)
    """Lines that could not be read, and such."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = to_json(self)
        return found


class ProgressReader:
    """Reads the folder of a run again and again. Not thread-safe."""

    def __init__(self, folder: str | os.PathLike[str], num_pairs: int = 3) -> None:
        """Raises RunFolderError, one line, when it is not the folder of a run."""
        self.folder = Path(folder)
        self._num_pairs = num_pairs
        self._metrics = _Metrics(self.folder / "metrics.jsonl")
        self._logs: dict[tuple[str, bool], _LogTail] = {}
        self._rates: dict[tuple[str, int, float], deque[tuple[float, int]]] = {}
        self._read: dict[str, tuple[tuple[int, ...], Any]] = {}  # by name: which version of the file, its value
        self._refuse_others()

    def _refuse_others(self) -> None:
        if not files.is_run_folder(self.folder):
            got = "no such folder" if not self.folder.exists() else "other files" if self.folder.is_dir() else "a file"
            raise RunFolderError(
                f"{self.folder}: expected the folder of a run, with config.yaml and ledger.jsonl, got {got}"
            )

    def read(self) -> Progress:
        """The run as it is now. Raises RunFolderError when a file is damaged in a way that no kill leaves."""
        self._refuse_others()
        folder, metrics = self.folder, self._metrics
        config = self._value("config.yaml", lambda file: fingerprint.read_config(file) or {})
        entries: list[Entry] = self._value("ledger.jsonl", read_entries) or []
        error = self._value("error.log", _last_line)
        verdict: list[str] | None = self._value("summary.json", _verdict)
        metrics.read()
        opened = [entry for entry in entries if isinstance(entry, Opened)]
        finished = [entry for entry in entries if isinstance(entry, Finished)]
        try:
            holder = files.lock_holder(folder)
        except OSError as fault:
            raise RunFolderError(f"{folder / files.LOCK_NAME}: can't be read: {fault.strerror}") from fault
        under_way = metrics.under_way(opened[-1].time if opened else 0.0)
        log = self._newest_log(under_way)
        stages = [self._stage(stage) for stage in under_way]
        signs = ("ledger.jsonl", "metrics.jsonl", files.LOCK_NAME, *(tail.name for tail in self._logs.values()))
        alive_at = max((at for name in signs if (at := self._modified(name)) is not None), default=None)
        state, since = self._state(holder, opened, alive_at)
        run = config.get("run") or {}
        return Progress(
            name=str(run.get("name", folder.name)),
            folder=str(folder),
            state=state,
            since=since,
            sign_of_life=alive_at,
            now=time.time(),
            process=f"process {opened[-1].pid} on {opened[-1].host}" if opened else "",
            num_starts=len(opened),
            num_trained=num_trained(entries),
            iterations=run.get("iterations") if _has_iterations(finished) else None,
            last_finished=f"{finished[-1].stage} {finished[-1].iteration}" if finished else None,
            stages=stages,
            curves=metrics.curves(),
            idle=dict(metrics.idle),
            restarts=dict(metrics.restarts),
            num_failed=sum(metrics.failed.values()),
            last_failure=next((tail.failure for tail in self._logs.values() if tail.failure is not None), None),
            error=error if state == FAILED else None,
            pairs=log.pairs(self._num_pairs) if log else [],
            verdict=verdict if state == FINISHED and verdict else [],
            notes=[*metrics.notes(), *(note for tail in self._logs.values() for note in tail.notes())],
        )

    def _value(self, name: str, read: Any) -> Any:
        """Value that `read` makes of a file, kept until the file changes; None when there is none."""
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunFolderError(f"{self.folder / name}: can't be read: {error.strerror}") from error
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if name not in self._read or self._read[name][0] != stamp:
            self._read[name] = (stamp, read(self.folder / name))
        return self._read[name][1]

    def _modified(self, name: str) -> float | None:
        try:
            return (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def _state(
        self, holder: LockHolder | None, opened: Sequence[Opened], alive_at: float | None
    ) -> tuple[str, float | None]:
        """(state, since when): what was written since the folder was opened last tells how that ended."""
        start = holder.since if holder else opened[-1].time if opened else 0.0
        for state, name in ((FINISHED, "summary.json"), (FAILED, "error.log")):
            if (at := self._modified(name)) is not None and at >= start:
                return state, at
        if holder is None or holder.is_alive is False:
            return STOPPED, alive_at
        return (RUNNING if holder.is_alive else UNSEEN), start

    def _stage(self, stage: _Begun) -> StageProgress:
        done: int | None = None
        rate = tokens = None
        if stage.name == _TRAIN:
            done, points = stage.done + len(stage.steps), [(stage.begun, stage.done)]
            points += [(at, stage.done + number) for number, at in enumerate(stage.steps, start=1)]
            rate, per_item = _rate(points), stage.tokens / max(1, len(stage.steps))
            tokens = None if rate is None or not stage.steps else rate * per_item
        elif (name := _log_of(stage.name, stage.step)) is not None:
            log = self._log(name, is_counted=True)
            done = log.count
            seen = self._rates.setdefault((stage.name, stage.step, stage.begun), deque([(stage.begun, stage.done)]))
            if done > seen[-1][1] and (at := self._modified(name)) is not None:
                seen.append((at, done))
            while len(seen) > 2 and seen[1][0] < seen[-1][0] - _RECENT_S:
                seen.popleft()
            rate = _rate(seen)
            tokens = None if rate is None or log.tokens is None else rate * log.tokens
        left = None
        if rate and done is not None and stage.total is not None:
            left = max(0, stage.total - done) / rate
        unit = "" if stage.total is None else {_TRAIN: "steps", "reference": "examples"}.get(stage.name, "questions")
        return StageProgress(stage.name, stage.step, stage.begun, stage.total, done, unit, rate, tokens, left)

    def _newest_log(self, under_way: Sequence[_Begun]) -> _LogTail | None:
        """The log of the training questions that grows, or else that of the newest iteration."""
        wanted = {(name, True) for stage in under_way if (name := _log_of(stage.name, stage.step)) is not None}
        collecting = [stage.step for stage in under_way if stage.name == _COLLECT]
        numbers = [path.name.removeprefix("iter_") for path in self.folder.glob("iter_*")]
        steps = collecting or sorted(
            step for each in numbers if each.isdecimal() and self._modified(log_path(step := int(each))) is not None
        )
        newest = (log_path(steps[-1]), bool(collecting)) if steps else None
        kept = wanted | ({newest} if newest else set())
        self._logs = {key: log for key, log in self._logs.items() if key in kept}
        for name, is_counted in kept:
            self._log(name, is_counted).read()
        return self._log(*newest) if newest else None

    def _log(self, name: str, is_counted: bool) -> _LogTail:
        key = (name, is_counted)
        if key not in self._logs:
            self._logs[key] = _LogTail(self.folder, name, is_counted)
        return self._logs[key]


def _log_of(stage: str, step: int) -> str | None:
    """The question log that a stage writes, by its path within the run folder; None of other stages."""
    if stage.startswith(EVALUATE):
        return log_path(step, stage.removeprefix(EVALUATE))
    name, _, source = stage.partition("-")
    return log_path(step, source=source or None) if name == _COLLECT else None


def _rate(points: Iterable[tuple[float, int]]) -> float | None:
    """Items a second over the last `_RECENT_S` of (unix seconds, items done); None before there is anything to tell."""
    seen = list(points)
    before = [point for point in seen[:-1] if point[0] < seen[-1][0] - _RECENT_S]
    first = before[-1] if before else seen[0]
    seconds, items = seen[-1][0] - first[0], seen[-1][1] - first[1]
    return items / seconds if seconds > 0 and items > 0 else None


def _has_iterations(finished: Sequence[Finished]) -> bool:
    """Whether a run has begun that has training questions."""
    begun = find_finished(finished, "begin", 0)
    return begun is not None and "train" in begun.facts.get("questions", {})


def _verdict(file: Path) -> list[str]:
    """The verdict on a run's summary, nothing on that of a training alone. Raises RunFolderError."""
    summary = files.read_json(file, dict[str, Any])
    if "evaluations" not in summary:
        return []
    try:
        found = verdicts.verdict(summary)
        return [found.headline, *found.sentences, found.ship, *found.warnings]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(f"{file}: expected the summary of a run, got: {described(error)}") from error


def _last_line(file: Path) -> str:
    """The last line that says anything. Raises RunFolderError when it can't be read."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - 2**14))
            lines = opened.read().decode(errors="replace").split("\n")
    except OSError as error:
        raise RunFolderError(f"{file}: can't be read: {error.strerror}") from error
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass
class _Begun:
    """A stage that has begun, as metrics.jsonl has it."""

    name: str
    step: int
    begun: float
    total: int | None
    done: int
    steps: list[float] = field(default_factory=list)
    """Times of training steps since."""
    tokens: float = 0.0


class _Metrics:
    """Contents of metrics.jsonl, as far as they are shown."""

    def __init__(self, file: Path) -> None:
        self._tail = Tail(file)
        self._clear()

    def _clear(self) -> None:
        self._begun: dict[tuple[str, int], _Begun] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._num_unreadable = 0
        self.idle: dict[str, float] = {}
        self.restarts: dict[str, int] = {}
        self.failed: dict[int, int] = {}

    def read(self) -> None:
        """Take in what was added."""
        if self._tail.rewind():
            self._clear()
        for line in self._tail.lines():
            try:
                record = decode(dict[str, float | None], line)
                at, step = float(record.pop("time") or 0), int(record.pop("step") or 0)
            except (ValueError, LookupError):
                self._num_unreadable += 1
                continue
            for name in [key.removeprefix("total/") for key in record if key.startswith("total/")]:
                total, done = record[f"total/{name}"], record.get(f"done/{name}") or 0
                self._begun[name, step] = _Begun(name, step, at, None if total is None else int(total), int(done))
            self._take(at, step, {name: value for name, value in record.items() if value is not None})

    def _take(self, at: float, step: int, record: dict[str, float]) -> None:
        idle: dict[str, float] = {}
        for key, value in record.items():
            group, _, name = key.partition("/")
            if group == "timing":
                self._begun.pop((name.removesuffix("_s"), step), None)
            elif group == "idle":
                idle[name] = value
            elif group == "restarts":
                self.restarts[name] = self.restarts.get(name, 0) + int(value)
            elif key == "pairs/dropped/failed":
                self.failed[step] = int(value)
            elif group == "eval" and name.endswith(("/score", "/recall", "/gain")):
                self._curves.setdefault(key, {})[step] = value
        self.idle = idle or self.idle
        if "train/loss" in record:
            self._take_step(at, step, record)

    def _take_step(self, at: float, step: int, record: dict[str, float]) -> None:
        """A training step; done again after a stop, the last line counts."""
        sides = [record.get(f"train/{side}_reward") for side in ("chosen", "rejected")]
        found = {f"train/{name}": record.get(f"train/{name}") for name in ("loss", "accuracy", "grad_norm")}
        found["train/margin"] = None if sides[0] is None or sides[1] is None else sides[0] - sides[1]
        for name, value in found.items():
            if value is not None:
                self._curves.setdefault(name, {})[step] = value
        for stage in self._begun.values():
            if stage.name == _TRAIN:
                stage.steps.append(at)
                stage.tokens += record.get("train/tokens", 0.0)

    def under_way(self, opened: float) -> list[_Begun]:
        """Stages that have begun since the folder was opened and not ended, without the iteration that holds them."""
        found = [stage for stage in self._begun.values() if stage.name != _WHOLE and stage.begun >= opened - 0.001]
        return sorted(found, key=lambda stage: stage.begun)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Name -> points, thinned."""
        return {name: _thinned(sorted(points.items())) for name, points in sorted(self._curves.items())}

    def notes(self) -> list[str]:
        """A line about what could not be read, if there is any."""
        if not self._num_unreadable:
            return []
        return [f"{self._tail.path}: {self._num_unreadable} lines are no numbers with time and step: left out"]


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `_MOST_POINTS`: the last step of each of so many groups of neighbours, with their mean."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    bounds = [number * len(points) // _MOST_POINTS for number in range(_MOST_POINTS + 1)]
    groups = [points[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


class _LogTail:
    """The end of a question log, and where it is asked for the number of its questions."""

    def __init__(self, folder: Path, name: str, is_counted: bool) -> None:
        self.name = name
        """Path within the run folder."""
        self._tail = Tail(folder / name, None if is_counted else _TAIL_BYTES)
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        """Questions since the place where reading began."""
        self.tokens: float | None = None
        """Tokens of a question's answers, mean of the last ones."""
        self.failure: str | None = None
        self._last: list[CommittedQuestion] = []
        self._num_unreadable = 0

    def read(self) -> None:
        """Take in what was added: count all of it, look at the end of it."""
        if self._tail.rewind():
            self._clear()
        newest: deque[bytes] = deque(maxlen=_BLOCKS)
        for block in self._tail.blocks():
            self.count += block.count(b"\n")
            newest.append(block)
        if not newest:
            return
        found = []
        for line in b"".join(newest)[:-1].rsplit(b"\n", _RECENT_QUESTIONS)[-_RECENT_QUESTIONS:]:
            try:
                found.append(decode(CommittedQuestion, line))
            except ValueError:
                self._num_unreadable += 1
        self._last = [*self._last, *found][-_RECENT_QUESTIONS:]
        answered = [question for question in self._last if question.rollouts]
        if answered:
            tokens = sum(len(rollout.token_ids) for question in answered for rollout in question.rollouts)
            self.tokens = tokens / len(answered)
        self.failure = next((_failure(each) for each in reversed(self._last) if each.error is not None), self.failure)

    def pairs(self, most: int) -> list[SeenPair]:
        """The newest pairs, the last one first."""
        found: list[SeenPair] = []
        for question in reversed(self._last):
            answers = {rollout.sample: rollout.text[:_MOST_TEXT] for rollout in question.rollouts}
            found += [
                SeenPair(
                    question_id=question.question_id,
                    topic=pair.topic,
                    chosen="" if pair.chosen is None else answers[pair.chosen],
                    chosen_score=pair.chosen_score,
                    rejected="" if pair.rejected is None else answers[pair.rejected],
                    rejected_score=pair.rejected_score,
                )
                for pair in reversed(question.pairs)
            ]
            if len(found) >= most:
                break
        return found[:most]

    def notes(self) -> list[str]:
        """A line about what could not be read, if there is any."""
        return [f"{self.name}: {self._num_unreadable} lines are no questions: left out"] * (self._num_unreadable > 0)


def _failure(question: CommittedQuestion) -> str:
    return f"question {question.question_id!r}: {question.error}"
