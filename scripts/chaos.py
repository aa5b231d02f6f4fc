#!/usr/bin/env python3
"""Kill parts of real runs at random moments, and see whether anything is lost.

.venv/bin/python scripts/chaos.py --faults 63 --folder runs/chaos

First the run that nobody disturbs: real vLLM, DeepSpeed and Ray, on a model of one layer that knows letters only, so
that a run takes a minute (--config takes any other). Then the same run once for each fault: at a random moment of a
stage one process gets SIGKILL, and the run is to end as the undisturbed one did, byte for byte: answers with the policy
versions that they record, labels, pairs, statistics and weights; each question committed once; no process left. A
driver that was killed is started again with the same command. A table at the end, the same as JSON Lines in
FOLDER/faults.jsonl; exit code 1 unless all were survived. A stopped call resumes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))  # its eyes: they overlook no process

import tiny_run  # noqa: E402
from driver import RUN_TIMEOUT_S, Driver, adopt_orphans, describe, families, titled  # noqa: E402
from local_cluster import LocalCluster  # noqa: E402

TITLES = {
    "rollout actor": "ray::RolloutEngine",
    "vLLM's engine": "VLLM::EngineCore",
    "annotation actor": "ray::AnnotationActor",
    "evaluation actor": "ray::EvaluationActor",
    "training rank": "ray::TrainingRank",
}
"""Fault -> how the title of the process that it kills begins."""
DRIVER, NODE = "driver", "second node"
FAULTS = (
    "rollout actor",
    DRIVER,
    "vLLM's engine",
    "annotation actor",
    DRIVER,
    "training rank",
    "evaluation actor",
    DRIVER,
    NODE,
)
"""They take turns; a third are the driver's, which has the most to lose."""
_ON_TWO_NODES = {"rollout.num_engines": 2, "cluster.threads": 1}
_CPUS = 4  # of each node: the first one has room for what the second one held
_TRIES = 5
_CALLS = re.compile(r"the (\d+) calls that it had count as failed")
_AFTER_STEP = re.compile(r"the group starts again after step (\d+)")
_END_S = 30.0
"""Longest that what a run started may outlive it."""
_RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They outlive a killed driver, and its raylet, by a minute, whatever a run does."""

Metrics = list[dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A stage of the undisturbed run, in the order in which they end."""

    name: str
    step: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """Outcome of one fault."""

    number: int
    fault: str
    stage: str
    """The one under way when it struck."""
    recovery_s: float | None
    """From the kill to the next thing that was committed or logged."""
    lost_s: float
    """Seconds that the run took longer than the undisturbed one."""
    calls_again: int | None
    """Requests to actors that were given out again; a killed driver can't tell."""
    steps_again: int
    """Optimizer steps that were done twice."""
    problems: tuple[str, ...]
    """Empty: survived."""


def arguments(config: Path, folder: Path, options: dict[str, Any]) -> list[str]:
    """Command line of the run in `folder`."""
    given = {"run.dir": folder.parent, "run.name": folder.name, **tiny_run.OPTIONS, **options}
    return ["--config", str(config), *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def metrics(folder: Path) -> Metrics:
    """The whole lines of metrics.jsonl."""
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def stages(lines: Metrics) -> list[Stage]:
    """Those that metrics say have ended."""
    found = []
    for line in lines:
        for name, seconds in line.items():
            if name.startswith("timing/") and name != "timing/iteration_s":
                found.append(Stage(name.removeprefix("timing/").removesuffix("_s"), line["step"], seconds))
    return found


def steps(lines: Metrics) -> Metrics:
    """The metrics of optimizer steps."""
    return [line for line in lines if "train/loss" in line]


def committed(folder: Path) -> int:
    """Bytes of all that tells how far a run is."""
    files = (folder / "ledger.jsonl", folder / "metrics.jsonl", *folder.glob("*_*/*questions.jsonl"))
    return sum(file.stat().st_size for file in files if file.exists())


def contents(folder: Path) -> dict[str, Any]:
    """Contents that a run must leave, whatever happened to it: answers, labels, pairs, figures and weights."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*_*/*.jsonl")):
        found[str(file.relative_to(folder))] = sorted(file.read_bytes().splitlines())  # questions end in any order
    for file in sorted(folder.glob("eval_*/*.json")):
        found[str(file.relative_to(folder))] = file.read_bytes()
    for file in sorted(folder.glob("iter_*/policy/*.safetensors")):
        found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def problems(folder: Path, undisturbed: dict[str, Any]) -> Iterator[str]:
    """Problems of a run that has ended."""
    units = Counter(
        (str(log.relative_to(folder)), question["question_id"])
        for log in sorted(folder.glob("*_*/*questions.jsonl"))
        for question in map(json.loads, log.read_bytes().splitlines())
    )
    yield from (f"{log}: {question} committed {count} times" for (log, question), count in units.items() if count > 1)
    found = contents(folder)
    yield from (f"{name} is missing" for name in sorted(undisturbed.keys() - found.keys()))
    yield from (f"{name} is new" for name in sorted(found.keys() - undisturbed.keys()))
    yield from (f"{name} differs" for name, value in undisturbed.items() if name in found and found[name] != value)
    if not (folder / "summary.json").exists():
        yield "no summary.json"


def victims(driver: Driver, fault: str, cluster: LocalCluster | None) -> list[psutil.Process]:
    """The processes of which `fault` kills one, as far as they are there."""
    if fault == DRIVER:
        return [psutil.Process(driver.process.pid)]
    if fault == NODE:
        assert cluster is not None
        return cluster.raylets(1)
    found = titled(driver.left() if cluster is None else families(psutil.Process().children()), TITLES[fault])
    # A process that vLLM forks has its parent's title at first.
    return [process for process in found if process.ppid() not in {each.pid for each in found}]


@contextmanager
def started(config: Path, run: Path, log: Path, on_two_nodes: bool) -> Iterator[tuple[Driver, LocalCluster | None]]:
    """The driver of a run, and its cluster if that is its own."""
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(num_nodes=2, cpus=_CPUS)) if on_two_nodes else None
        options = {} if cluster is None else {**_ON_TWO_NODES, "cluster.address": cluster.address}
        yield stack.enter_context(Driver(arguments(config, run, options), log)), cluster


class Undisturbed:
    """The run without faults, on one node or on two; an earlier call's is taken as it is."""

    def __init__(self, config: Path, folder: Path, on_two_nodes: bool) -> None:
        self.config = config
        run = folder / ("undisturbed-2" if on_two_nodes else "undisturbed")
        file = run.with_suffix(".json")
        if not file.exists():
            shutil.rmtree(run, ignore_errors=True)
            with started(config, run, run.with_suffix(".log"), on_two_nodes) as (driver, _):
                begin = time.monotonic()
                if code := driver.wait():
                    raise SystemExit(f"the undisturbed run ended with {code}: see {driver.log}")
                file.write_text(json.dumps(time.monotonic() - begin))
        self.seconds: float = json.loads(file.read_text())
        self.contents = contents(run)
        self.stages = stages(metrics(run))
        self.num_steps = len(steps(metrics(run)))


class Run:
    """One run that meets one fault."""

    def __init__(self, number: int, folder: Path, undisturbed: Undisturbed) -> None:
        self._number = number
        self._fault = FAULTS[number % len(FAULTS)]
        self._folder = folder / f"fault-{number:03d}"
        self._undisturbed = undisturbed
        self._problems: list[str] = []

    def strike(self, stage: int, after_s: float, chance: random.Random) -> Outcome | None:
        """Kill `after_s` seconds into a stage; None when there was nobody to kill any more."""
        shutil.rmtree(self._folder, ignore_errors=True)  # of a call that was stopped
        begin = time.monotonic()
        config, log = self._undisturbed.config, self._folder.with_suffix(".log")
        with ExitStack() as stack:
            driver, cluster = stack.enter_context(started(config, self._folder, log, self._fault == NODE))
            driver.wait_for(lambda: len(stages(metrics(self._folder))) >= stage and committed(self._folder) > 0)
            time.sleep(after_s)
            if not self._kill(driver, cluster, chance):
                return None
            killed, before, lines = time.monotonic(), committed(self._folder), metrics(self._folder)
            recovered = self._recovered(driver, before)
            code, said = driver.wait(), driver.output
            for attempt in range(1, _TRIES if self._fault == DRIVER else 0):
                if code == 0:
                    break
                # At once: what the killed one has started is still about to end.
                again = started(config, self._folder, log.with_suffix(f".{attempt}.log"), False)
                driver_again, _ = stack.enter_context(again)
                recovered = recovered or self._recovered(driver_again, before)
                code = driver_again.wait()
            ended = time.monotonic()
            self._see_what_is_left(driver, cluster)
        lost_s = ended - begin - self._undisturbed.seconds
        if code:
            self._problems.append(f"ended with {code}")
        else:
            self._problems.extend(problems(self._folder, self._undisturbed.contents))
        known = self._undisturbed.stages
        struck = known[min(len(stages(lines)), len(known) - 1)]
        return Outcome(
            number=self._number,
            fault=self._fault,
            stage=f"{struck.name} {struck.step}",
            recovery_s=None if recovered is None else recovered - killed,
            lost_s=lost_s,
            calls_again=None if self._fault == DRIVER else sum(map(int, _CALLS.findall(said))),
            steps_again=self._steps_again(lines, said),
            problems=tuple(self._problems),
        )

    def _kill(self, driver: Driver, cluster: LocalCluster | None, chance: random.Random) -> bool:
        """SIGKILL what the fault names, as soon as it is there; false when the run ends before."""
        end = time.monotonic() + RUN_TIMEOUT_S
        while driver.process.poll() is None and time.monotonic() < end:
            if found := victims(driver, self._fault, cluster):
                chance.choice(found).kill()
                return True
            time.sleep(0.1)
        return False

    def _recovered(self, driver: Driver, before: int) -> float | None:
        """When more than `before` was committed; None when the process ends earlier."""
        while driver.process.poll() is None:
            if committed(self._folder) > before:
                return time.monotonic()
            time.sleep(0.1)
        return None

    def _see_what_is_left(self, driver: Driver, cluster: LocalCluster | None) -> None:
        """Note the processes that are left since the driver's start, or actors where processes are the cluster's."""
        end = time.monotonic() + _END_S
        while left := self._left(driver, cluster):
            if time.monotonic() > end:
                self._problems.extend(f"left behind: {each}" for each in left)
                return
            time.sleep(0.5)

    def _left(self, driver: Driver, cluster: LocalCluster | None) -> list[str]:
        if cluster is not None:
            return [str(actors) for actors in cluster.actors() if actors]
        left = describe(driver.left())
        return [each for each in left if self._fault != DRIVER or not each.partition(" ")[2].startswith(_RAYS_OWN)]

    def _steps_again(self, lines: Metrics, said: str) -> int:
        """Steps that metrics have twice, and those since the step after which ranks say that they go on."""
        again = len(steps(metrics(self._folder))) - self._undisturbed.num_steps
        began = max((number for number, line in enumerate(lines) if "timing/reference_s" in line), default=0)
        done = len(steps(lines[began:]))
        return again + sum(max(0, done - int(step)) for step in _AFTER_STEP.findall(said))


def strike(number: int, config: Path, folder: Path, seed: int) -> Outcome:
    """Fault `number` (from 0): all faults take turns, and so do the stages. Raises SystemExit when it meets nobody."""
    undisturbed = Undisturbed(config, folder, FAULTS[number % len(FAULTS)] == NODE)
    stage = (number // len(FAULTS) * 2 + number) % len(undisturbed.stages)
    for attempt in range(_TRIES):
        chance = random.Random(f"{seed}/{number}/{attempt}")
        run = Run(number, folder, undisturbed)
        if outcome := run.strike(stage, chance.uniform(0, undisturbed.stages[stage].seconds), chance):
            return outcome
    raise SystemExit(f"fault {number}: nobody to kill in {_TRIES} runs")


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    lines = [
        "| # | killed | in | recovered in, s | run longer by, s | calls again | steps again | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        verdict = "; ".join(each.problems) or "survived"
        calls = "-" if each.calls_again is None else each.calls_again
        cells = [each.number, each.fault, each.stage, seconds(each.recovery_s), seconds(each.lost_s), calls]
        lines.append(f"| {' | '.join(map(str, [*cells, each.steps_again, verdict]))} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=len(FAULTS))
    parser.add_argument("--first", type=int, default=0, help="Number of the first fault.")
    parser.add_argument("--seed", type=int, default=1, help="Draws the moments.")
    parser.add_argument("--config", type=Path, help="Of another run, such as configs/smoke.yaml.")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "chaos")
    given = parser.parse_args()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, too
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    config = given.config or tiny_run.write_config(folder)
    log = folder / "faults.jsonl"
    done = [Outcome(**json.loads(line)) for line in log.read_bytes().splitlines()] if log.exists() else []
    for number in range(given.first, given.first + given.faults):
        if any(each.number == number for each in done):
            continue
        done.append(strike(number, config, folder, given.seed))
        with log.open("a") as file:
            file.write(json.dumps(asdict(done[-1])) + "\n")
        print(table(done[-1:]).splitlines()[-1], flush=True)
    asked = [each for each in done if given.first <= each.number < given.first + given.faults]
    print(table(asked))
    survived = sum(not each.problems for each in asked)
    print(f"{survived} of {len(asked)} survived")
    raise SystemExit(0 if survived == len(asked) else 1)


if __name__ == "__main__":
    main()
