"""Progress of runs: growing, torn, resumed, failed, killed, finished, hostile and long ones."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import (
    Annotation,
    CommittedQuestion,
    PreferencePair,
    Rollout,
    ScoredAnswer,
    Sentence,
    encode_line,
    encode_record,
)
from maskdpo_ray.report import progress
from maskdpo_ray.report.progress import Progress, ProgressReader
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

CONFIG = {"run": {"name": "facts", "iterations": 3}, "logger": {"trackers": []}}


@contextmanager
def opened(path: Path) -> Iterator[tuple[RunFolder, Tracker]]:
    with RunFolder.open(path, CONFIG, {}) as folder, Tracker(path, LoggerConfig(), {}) as tracker:
        yield folder, tracker


def question(name: str, texts: tuple[str, ...] = ("Right.", "Wrong."), num_tokens: int = 5) -> CommittedQuestion:
    """A question whose first answer is preferred to its last one."""
    rollouts = [Rollout(name, i, tuple(range(num_tokens)), text, "stop", 0) for i, text in enumerate(texts)]
    notes = [
        Annotation(name, i, (Sentence(0, len(text), "contradictory" if i else "no_hallucination"),))
        for i, text in enumerate(texts)
    ]
    answers = [
        ScoredAnswer(rollout, note, 1.0 - i) for i, (rollout, note) in enumerate(zip(rollouts, notes, strict=True))
    ]
    pairs = [PreferencePair(name, f"about {name}", (1, 2), answers[0], answers[-1], 0)]
    return CommittedQuestion.of(name, rollouts, notes, pairs)


def read(path: Path) -> Progress:
    found = ProgressReader(path).read()
    json.dumps(found.to_json(), allow_nan=False)
    return found


def test_a_stage_says_how_much_of_it_is_committed(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (folder, tracker):
        reader = ProgressReader(tmp_path / "r")
        first = reader.read()
        assert (first.stages, first.curves, first.iterations) == ([], {}, None)
        folder.finish("begin", 0, checksum="c", questions={"train": "d"})
        with tracker.stage("iteration", 0), tracker.stage("collect", 0, total=4):
            for number in range(3):
                folder.questions(0).commit(question(f"q{number}"))
                (stage,) = reader.read().stages
                assert (stage.name, stage.step, stage.done, stage.total, stage.unit) == (
                    "collect",
                    0,
                    number + 1,
                    4,
                    "questions",
                )
            found = reader.read()
        assert reader.read().stages == []
    assert found.state == "running" and found.name == "facts" and found.iterations == 3
    assert [pair.question_id for pair in found.pairs] == ["q2", "q1", "q0"]
    first = found.pairs[0]
    assert (first.topic, first.chosen, first.chosen_score, first.rejected, first.rejected_score) == (
        "about q2",
        "Right.",
        1.0,
        "Wrong.",
        0.0,
    )


def test_rates_are_those_since_the_stage_began_and_then_of_the_last_two_minutes(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with opened(path) as (folder, tracker):
        begun = time.time() + 1
        line = {"time": begun, "step": 0, "total/collect": 100, "done/collect": 10}
        (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        reader, log = ProgressReader(path), folder.questions(0)
        for number in range(10):  # of an earlier attempt
            log.commit(question(f"old{number}"))
        (stage,) = reader.read().stages
        assert (stage.done, stage.per_second, stage.seconds_left) == (10, None, None)
        for at, count in ((begun + 200, 20), (begun + 300, 10), (begun + 400, 10)):
            for number in range(count):
                log.commit(question(f"q{at}-{number}", num_tokens=15))
            os.utime(path / "iter_000/questions.jsonl", (at, at))
            (stage,) = reader.read().stages
            if count == 20:
                assert stage.per_second == pytest.approx(20 / 200) and stage.seconds_left == pytest.approx(70 / 0.1)
        assert stage.done == 50 and stage.per_second == pytest.approx(20 / 200)
        assert stage.tokens_per_second == pytest.approx(0.1 * 30)


def test_training_counts_its_steps_and_an_evaluation_its_questions(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (folder, tracker):
        with tracker.stage("train", 1, total=9, done=6):
            figures = {"loss": 0.6, "chosen_reward": 0.5, "rejected_reward": -0.25, "tokens": 90.0}
            begun = time.time()
            lines = [{"time": begun, "step": 1, "total/train": 9, "done/train": 6}]
            for step in (12, 13):
                of_step = {f"train/{name}": value for name, value in figures.items()}
                lines.append({"time": begun + 20 * (step - 11), "step": step, **of_step})
            (tmp_path / "r/metrics.jsonl").write_bytes(b"".join(map(encode_line, lines)))
            found = read(tmp_path / "r")
        with tracker.stage("evaluate-heldout", 2, total=5):
            folder.evaluated(2, "heldout").commit(question("h"))
            (evaluating,) = read(tmp_path / "r").stages
    (training,) = found.stages
    assert (training.done, training.total, training.unit) == (8, 9, "steps")
    assert (training.per_second, training.seconds_left) == (pytest.approx(1 / 20), pytest.approx(20))
    assert training.tokens_per_second == pytest.approx(90 / 20)
    assert found.curves == {"train/loss": [(12, 0.6), (13, 0.6)], "train/margin": [(12, 0.75), (13, 0.75)]}
    assert (evaluating.name, evaluating.done, evaluating.total) == ("evaluate-heldout", 1, 5)


def test_collecting_ahead_is_beside_training(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "r") as (folder, tracker),
        tracker.stage("collect", 1, total=8),
        tracker.stage("reference", 0, total=3),
    ):
        folder.questions(1).commit(question("q"))
        found = read(tmp_path / "r")
    assert [(stage.name, stage.step, stage.done) for stage in found.stages] == [
        ("collect", 1, 1),
        ("reference", 0, None),
    ]


def test_curves_idle_shares_restarts_and_failures(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (_, tracker):
        tracker.log({"eval/heldout/score": 0.5, "eval/heldout/sentences": 5.0}, 0)
        tracker.log({"restarts/rollout": 2}, 0)
        tracker.log({"restarts/rollout": 1, "restarts/annotation": 1}, 1)
        tracker.log({"pairs/count": 3, "pairs/dropped/failed": 2}, 0)
        tracker.log({"idle/rollout": 0.5}, 0)
        tracker.log({"idle/rollout": 0.25, "idle/training": 0.75}, 1)
        tracker.log({"eval/heldout/score": 0.75}, 1)
    found = read(tmp_path / "r")
    assert found.curves == {"eval/heldout/score": [(0, 0.5), (1, 0.75)]}
    assert found.restarts == {"rollout": 3, "annotation": 1} and found.num_failed == 2
    assert found.idle == {"rollout": 0.25, "training": 0.75}


def test_a_question_that_failed_is_told_with_its_error(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (folder, _):
        folder.questions(0).commit(question("q"))
        folder.questions(0).set_aside("bad", "engine 1 died")
    found = read(tmp_path / "r")
    assert found.last_failure == "question 'bad': engine 1 died" and [pair.question_id for pair in found.pairs] == ["q"]


def test_a_long_curve_is_thinned_to_means_of_neighbours(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (_, tracker):
        for step in range(1000):
            tracker.log({"train/loss": float(step)}, step)
    points = read(tmp_path / "r").curves["train/loss"]
    assert len(points) == 200 and points[0] == (4, 2.0) and points[-1] == (999, 997.0)


def test_a_step_that_was_done_again_counts_once(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (_, tracker):
        for step, loss in ((0, 1.0), (1, 2.0), (1, 3.0)):
            tracker.log({"train/loss": loss}, step)
    assert read(tmp_path / "r").curves["train/loss"] == [(0, 1.0), (1, 3.0)]


def ended(path: Path, error: str = "", summary: dict[str, Any] | None = None) -> None:
    """A run that began a stage and ended."""
    with opened(path) as (folder, tracker):
        tracker.log({"eval/heldout/score": 0.5}, 0)
        if summary is not None:
            folder.write_json("summary.json", summary)
        if error:
            (path / "error.log").write_text(error)


def pass_time(path: Path) -> None:
    """Make all files of a run a minute older: two moments of a fast test may have one time on disk."""
    for file in path.iterdir():
        at = file.stat().st_mtime - 60
        os.utime(file, (at, at))


def test_the_states_of_a_run_and_since_when(tmp_path: Path) -> None:
    path = tmp_path / "r"
    ended(path)
    stopped = read(path)
    assert (stopped.state, stopped.since) == ("stopped", stopped.sign_of_life) and stopped.error is None
    ended(path, "Traceback:\n  File x\nClusterError: no room\n\n")
    failed = read(path)
    assert (failed.state, failed.error, failed.num_starts) == ("failed", "ClusterError: no room", 2)
    pass_time(path)
    with opened(path):  # the old error.log lies there until it succeeds
        assert (read(path).state, read(path).error) == ("running", None)
    (path / "error.log").unlink()
    pass_time(path)
    ended(path, summary={"kept": None, "evaluations": {}, "remarks": []})
    finished = read(path)
    assert (finished.state, finished.verdict[0]) == ("finished", "Nothing has been evaluated yet.")
    assert finished.since == (path / "summary.json").stat().st_mtime
    pass_time(path)
    with opened(path):  # extended
        assert (read(path).state, read(path).verdict) == ("running", [])


def test_a_run_of_another_machine_is_told_by_its_last_sign_of_life(tmp_path: Path) -> None:
    with opened(tmp_path / "r"):
        pass
    (tmp_path / "r/run.lock").write_text("process 1 on elsewhere\n")
    now = time.time()
    os.utime(tmp_path / "r/ledger.jsonl", (now + 50, now + 50))
    found = read(tmp_path / "r")
    assert found.state == "unseen" and found.sign_of_life == pytest.approx(now + 50)


def test_a_killed_run_says_what_it_was_doing_and_a_resumed_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with opened(path) as (folder, tracker), tracker.stage("collect", 0, total=4):
        folder.questions(0).commit(question("q"))
        shutil.copytree(path, tmp_path / "killed")
    found = read(tmp_path / "killed")
    assert found.state == "stopped" and [(stage.name, stage.done) for stage in found.stages] == [("collect", 1)]
    with RunFolder.open(tmp_path / "killed", CONFIG, {}):
        assert read(tmp_path / "killed").stages == []


def test_what_is_half_written_waits_and_what_is_damaged_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with opened(path) as (folder, tracker), tracker.stage("collect", 0, total=4):
        reader = ProgressReader(path)
        folder.questions(0).commit(question("a"))
        line = encode_record(question("b"))
        with (path / "iter_000/questions.jsonl").open("ab") as file:
            file.write(line[:50])
            file.flush()
            assert reader.read().stages[0].done == 1
            file.write(line[50:])
        with (path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"time": 5.0, "step": 1, "train/lo')
        found = reader.read()
        assert found.stages[0].done == 2 and found.notes == []
        with (path / "metrics.jsonl").open("ab") as file:
            file.write(b'\n\0\0\n[]\n{"step": "x"}\n')
        with (path / "iter_000/questions.jsonl").open("ab") as file:
            file.write(b"{}\n")
        metrics, log = reader.read().notes
    assert metrics == f"{path / 'metrics.jsonl'}: 4 lines are no numbers with time and step: left out"
    assert log == "iter_000/questions.jsonl: 1 lines are no questions: left out"


def test_files_that_are_replaced_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with opened(path) as (folder, tracker), tracker.stage("collect", 0, total=4):
        tracker.log({"train/loss": 1.0, "eval/heldout/score": 0.5}, 0)
        folder.questions(0).commit(question("a"))
        folder.questions(0).commit(question("b"))
        reader = ProgressReader(path)
        assert reader.read().stages[0].done == 2
        (path / "iter_000/questions.jsonl").write_bytes(encode_record(question("c")))
        kept = (path / "metrics.jsonl").read_text().splitlines(keepends=True)[:1]
        (path / "metrics.jsonl").write_text("".join(kept))
        found = reader.read()
    assert found.stages[0].done == 1 and [pair.question_id for pair in found.pairs] == ["c"] and found.curves == {}


def test_what_is_no_run_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, got in (("none", "no such folder"), ("", "other files"), ("file", "a file")):
        with pytest.raises(RunFolderError, match=f"expected the folder of a run, with config.yaml .*, got {got}$"):
            ProgressReader(tmp_path / name)
    ended(tmp_path / "r")
    reader = ProgressReader(tmp_path / "r")
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(RunFolderError, match="got no such folder$"):
        reader.read()


@pytest.mark.parametrize("name", ["ledger.jsonl", "config.yaml", "summary.json"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    ended(tmp_path / "r", summary={})
    (tmp_path / "r" / name).write_text("}\n}\n")
    with pytest.raises(RunFolderError, match=name) as refused:
        read(tmp_path / "r")
    assert "\n" not in str(refused.value)


def test_a_summary_of_another_form_is_one_line_and_that_of_a_training_no_verdict(tmp_path: Path) -> None:
    ended(tmp_path / "r", summary={"evaluations": []})
    with pytest.raises(RunFolderError, match=r"summary.json: expected the summary of a run, got: KeyError: 'kept' \("):
        read(tmp_path / "r")
    (tmp_path / "r/summary.json").write_text('{"loss": {}}')
    assert (read(tmp_path / "r").state, read(tmp_path / "r").verdict) == ("finished", [])


def test_hostile_text_is_given_as_it_is_and_not_at_any_length(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as (folder, _):
        folder.questions(0).commit(question("q", ("\x1b[2J\u202e<script>", "x" * 10_000)))
    (pair,) = read(tmp_path / "r").pairs
    assert pair.chosen == "\x1b[2J\u202e<script>" and pair.rejected == "x" * 2000


def test_a_refresh_of_a_long_run_costs_what_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """125,000 questions: the first reading counts them and decodes the last few, a later one reads what is new."""
    path, count = tmp_path / "r", 125_000
    with opened(path) as (folder, tracker), tracker.stage("collect", 0, total=200_000):
        folder.questions(0)
        lines = b"".join(encode_record(question(f"q{number}")) for number in range(1000))
        with (path / "iter_000/questions.jsonl").open("ab") as file:
            for _ in range(count // 1000):
                file.write(lines)
        draws = random.Random(0)
        with (path / "metrics.jsonl").open("ab") as file:
            for step in range(20_000):
                file.write(encode_line({"time": 1.0, "step": step, "train/loss": draws.random()}))
        reader, decoded = ProgressReader(path), []
        monkeypatch.setattr(progress, "decode", lambda kind, line: decoded.append(line) or real(kind, line))
        (stage,) = reader.read().stages
        assert stage.done == count and len(decoded) == 20_001 + 16
        decoded.clear()
        folder.questions(1)
        with (path / "iter_000/questions.jsonl").open("ab") as file:
            file.write(encode_record(question("new")))
        start = time.process_time()
        (stage,) = reader.read().stages
        assert time.process_time() - start < 0.5  # 0.03 s where nothing else runs
        assert stage.done == count + 1 and len(decoded) == 1


real = progress.decode
