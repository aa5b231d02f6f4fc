"""A run that is stopped leaves no process and loses nothing; one whose engine dies goes on by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from driver import Driver, describe, family
from finished_run import Run, arguments, finish

pytestmark = pytest.mark.timeout(3600)
STOP_TIMEOUT_S = 30.0


@dataclass
class Stopped:
    """What was seen of one run that was stopped twice and lost an engine, up to its end."""

    codes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    """Answers on disk at each stop."""
    orphans: list[str] = field(default_factory=list)
    """vLLM processes that outlived their killed actor by more than a few seconds."""
    end: Run | None = None


def holds(file: Path, text: str) -> bool:
    return file.is_file() and text in file.read_text(encoding="utf-8")


def kill_engine(driver: Driver) -> list[str]:
    """SIGKILL the rollout actor alone; which of its vLLM processes are still there seconds later."""
    (actor,) = family(driver, "ray::RolloutEngine")
    children = actor.children(recursive=True)
    actor.kill()
    _, left = psutil.wait_procs(children, timeout=10)
    return describe(left)


@pytest.fixture(scope="module")
def stopped(undisturbed: Run, runs_dir: Path, tiny: Path) -> Stopped:
    """The run of `undisturbed`, stopped while it answers and while it trains, and deprived of its engine."""
    folder, seen = runs_dir / "stopped", Stopped()
    options = arguments(folder, tiny)
    rollouts, metrics = folder / "iter_000" / "rollouts-000.jsonl", folder / "metrics.jsonl"

    def stop(name: str, number: signal.Signals, when: Callable[[], bool], all_at_once: bool = False) -> None:
        with Driver(options, runs_dir / f"stopped-{name}.log") as driver:
            driver.wait_for(when)
            start = time.monotonic()
            seen.codes[name] = driver.stop(number, STOP_TIMEOUT_S, all_at_once)
            seen.seconds[name] = time.monotonic() - start
            seen.left[name] = describe(driver.left())
            seen.outputs[name] = driver.output
        seen.committed[name] = len(rollouts.read_text(encoding="utf-8").splitlines())

    stop("answering", signal.SIGINT, lambda: holds(rollouts, "\n"))
    stop("training", signal.SIGTERM, lambda: holds(metrics, "train/loss"), all_at_once=True)
    with Driver(options, runs_dir / "stopped-end.log") as driver:
        driver.wait_for(lambda: holds(folder / "iter_001" / "rollouts-000.jsonl", "\n"))
        seen.orphans = kill_engine(driver)
        seen.end = finish(driver, folder)
    return seen


def test_stopped_in_time(stopped: Stopped) -> None:
    assert stopped.codes == {"answering": 130, "training": 143}
    assert max(stopped.seconds.values()) < STOP_TIMEOUT_S


def test_no_process_is_left(stopped: Stopped) -> None:
    assert stopped.left == {"answering": [], "training": []}


def test_it_was_in_the_middle(stopped: Stopped, undisturbed: Run) -> None:
    """Else the other tests say nothing."""
    total = len(undisturbed.lines("iter_000/rollouts-000.jsonl"))
    assert 0 < stopped.committed["answering"] < total == stopped.committed["training"]
    entries = stopped.end.lines("ledger.jsonl")
    assert [entry["stage"] for entry in entries].count("open") == 3
    trained = [
        i
        for i, entry in enumerate(entries)
        if "finished" in entry and (entry["stage"], entry["iteration"]) == ("train", 0)
    ]
    opened = [i for i, entry in enumerate(entries) if entry["stage"] == "open"]
    assert trained[0] > opened[2]


def test_a_stop_is_no_crash(stopped: Stopped) -> None:
    for output in stopped.outputs.values():
        assert "Traceback" not in output and "*** SIGTERM" not in output, output
        assert "the same command resumes from there" in output


@pytest.mark.parametrize("all_at_once", [False, True])
def test_stopped_while_ray_starts(runs_dir: Path, tiny: Path, all_at_once: bool) -> None:
    """Ray has signal handlers of its own, and processes that nobody else would end."""
    name = f"early-{all_at_once}"
    with Driver(arguments(runs_dir / name, tiny), runs_dir / f"{name}.log") as driver:
        driver.wait_for(lambda: any("raylet/raylet" in each for each in describe(driver.left())))
        code = driver.stop(signal.SIGTERM, STOP_TIMEOUT_S, all_at_once)
        left = describe(driver.left())
    assert (code, left) == (143, []) and "Traceback" not in driver.output, driver.output


def test_vllm_ends_with_its_actor(stopped: Stopped) -> None:
    assert stopped.orphans == []


def test_it_goes_on_to_the_end(stopped: Stopped, undisturbed: Run) -> None:
    """As if nothing had happened: the same answers, labels, pairs and policies as the run that was let alone."""
    run = stopped.end
    assert run.code == 0, run.output
    assert run.left == []
    files = ("rollouts-000.jsonl", "annotations-000.jsonl", "pairs.jsonl")
    names = [f"iter_{i:03d}/{name}" for i in (0, 1) for name in files]
    for name in [*names, "eval_000/heldout-rollouts.jsonl", "eval_001/heldout-rollouts.jsonl"]:
        ours, theirs = ((each.folder / name).read_bytes() for each in (run, undisturbed))
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines()), name
    for iteration in (0, 1):
        ours, theirs = (
            (each.folder / f"iter_{iteration:03d}" / "policy" / "model.safetensors").read_bytes()
            for each in (run, undisturbed)
        )
        assert ours == theirs
