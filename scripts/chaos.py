#!/usr/bin/env python3
"""Kill parts of real runs at random moments, and see whether anything is lost.

.venv/bin/python scripts/chaos.py --faults 60 --folder runs/chaos

First the run that nobody disturbs (the bundled model, vLLM, DeepSpeed and Ray as configs/smoke.yaml has them, in
float32). Then the same run once for each fault: at a random moment of a stage one process gets SIGKILL, and the run is
to end as the undisturbed one did, byte for byte: answers with the policy versions that they record, labels, pairs,
statistics and weights, each question committed once, no process left. A driver that was killed is started again with
the same command. A table at the end, the same as JSON Lines in FOLDER/faults.jsonl; exit code 1 unless all were
survived. A stopped call goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "e2e"))  # its eyes: they overlook no process

from driver import RUN_TIMEOUT_S, Driver, adopt_orphans, describe, families  # noqa: E402
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
_OPTIONS = {
    "data.max_questions": 6,
    "data.num_eval_topics": 3,
    "data.transfer": "null",
    "rollout.max_in_flight": 2,
    "train.batch_size": 2,
    "train.save_steps": 1,
    "eval.bootstrap_samples": 100,
    "vllm.dtype": "float32",  # in bfloat16 an answer depends on those decoded beside it
}
_ON_TWO_NODES = {"rollout.num_engines": 2, "cluster.threads": 1}
_CPUS = 4  # of each node: the first one has room for what the second one held
_TRIES = 5
_END_S = 30.0
"""Longest that what a run started may outlive it."""


@dataclass(frozen=True)
class Stage:
    """A stage of the undisturbed run, in the order in which they end."""

    name: str
    step: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    number: int
    fault: str
    stage: str
    after_s: float
    """Seconds into the stage."""
    recovery_s: float | None
    """From the kill to the next thing that was committed or logged."""
    lost_s: float
    """Seconds that the run took longer than the undisturbed one."""
    steps_again: int
    """Optimizer steps that were done twice."""
    problems: tuple[str, ...]
    """Empty: survived."""


def arguments(folder: Path, options: dict[str, Any]) -> list[str]:
    """Of the run in `folder`."""
    given = {"run.dir": folder.parent, "run.name": folder.name, **_OPTIONS, **options}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return ["--config", str(REPOSITORY / "configs" / "smoke.yaml"), *words]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def stages(folder: Path) -> list[Stage]:
    """Those that metrics.jsonl says have ended."""
    found = []
    for line in metrics(folder):
        for name, seconds in line.items():
            if name.startswith("timing/") and name != "timing/iteration_s":
                found.append(Stage(name.removeprefix("timing/").removesuffix("_s"), line["step"], seconds))
    return found


def committed(folder: Path) -> int:
    """Bytes of all that tells how far a run is."""
    return sum(file.stat().st_size for file in (folder / "ledger.jsonl", folder / "metrics.jsonl") if file.exists())


def contents(folder: Path) -> dict[str, Any]:
    """What a run is to leave, whatever happened to it: answers, labels, pairs, figures and weights."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*_*/*.jsonl")):
        found[str(file.relative_to(folder))] = sorted(file.read_bytes().splitlines())  # questions end in any order
    for file in sorted(folder.glob("eval_*/*.json")):
        found[str(file.relative_to(folder))] = file.read_bytes()
    for file in sorted(folder.glob("iter_*/policy/*.safetensors")):
        found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def problems(folder: Path, undisturbed: dict[str, Any]) -> Iterator[str]:
    """What is not as it should be in a run that has ended."""
    units = Counter(
        (entry["log"], entry["question_id"])
        for entry in map(json.loads, (folder / "ledger.jsonl").read_bytes().splitlines())
        if entry["stage"] == "question"
    )
    yield from (f"{log}: {question} committed {count} times" for (log, question), count in units.items() if count > 1)
    found = contents(folder)
    yield from (f"{name} is missing" for name in sorted(undisturbed.keys() - found.keys()))
    yield from (f"{name} is new" for name in sorted(found.keys() - undisturbed.keys()))
    yield from (f"{name} differs" for name, value in undisturbed.items() if name in found and found[name] != value)
    if not (folder / "summary.json").exists():
        yield "no summary.json"


def victims(driver: Driver, fault: str, cluster: LocalCluster | None) -> list[psutil.Process]:
    """The processes that `fault` kills, as far as they are there."""
    if fault == DRIVER:
        return [psutil.Process(driver.process.pid)]
    if fault == NODE:
        assert cluster is not None
        return cluster.raylets(1)
    found = []
    for process in driver.left() if cluster is None else families(psutil.Process().children()):
        try:
            if " ".join(process.cmdline()).startswith(TITLES[fault]):
                found.append(process)
        except psutil.NoSuchProcess:
            continue  # it ended while we looked
    return found


class Chaos:
    """All faults of one call."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._undisturbed = folder / "undisturbed"
        self._seconds = 0.0

    def prepare(self) -> None:
        """The undisturbed run, unless an earlier call left it."""
        file = self._folder / "undisturbed-seconds.json"
        if not file.exists():
            begin = time.monotonic()
            with Driver(arguments(self._undisturbed, {}), self._folder / "undisturbed.log") as driver:
                code = driver.wait()
            if code != 0:
                raise SystemExit(f"the undisturbed run ended with {code}: see {driver.log}")
            file.write_text(json.dumps(time.monotonic() - begin))
        self._seconds = json.loads(file.read_text())
        self._contents = contents(self._undisturbed)
        self._stages = stages(self._undisturbed)

    def strike(self, number: int) -> Outcome:
        """Fault `number` (from 0): all faults take turns, and so do the stages."""
        fault = FAULTS[number % len(FAULTS)]
        # Neighbours in time meet different faults: 7 is prime to the number of faults.
        stage = (number * 7 + number // len(FAULTS)) % len(self._stages)
        after = random.Random(f"{self._seed}/{number}").uniform(0, self._stages[stage].seconds)
        folder = self._folder / f"fault-{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was stopped
        found: list[str] = []
        recovery = None
        with ExitStack() as stack:
            cluster = stack.enter_context(LocalCluster(num_nodes=2, cpus=_CPUS)) if fault == NODE else None
            begin = time.monotonic()
            options = {} if cluster is None else {**_ON_TWO_NODES, "cluster.address": cluster.address}
            command = arguments(folder, options)
            with Driver(command, self._folder / f"{folder.name}.log") as driver:
                self._await(driver, folder, stage, after)
                self._kill(driver, fault, cluster)
                recovery = _recovery(driver, folder)
                code = driver.wait()
            for attempt in range(1, _TRIES if fault == DRIVER else 0):
                if code == 0:
                    break
                with Driver(command, self._folder / f"{folder.name}-{attempt}.log") as driver:
                    recovery = recovery or _recovery(driver, folder)
                    code = driver.wait()
            left = driver.left() if cluster is None else []
            found += [f"ended with {code}"] if code else []
            found += [f"left behind: {each}" for each in describe(left)]
        found += problems(folder, self._contents) if code == 0 else []
        steps = [sum("train/loss" in line for line in metrics(each)) for each in (folder, self._undisturbed)]
        name = f"{self._stages[stage].name} {self._stages[stage].step}"
        lost = time.monotonic() - begin - self._seconds
        return Outcome(number, fault, name, after, recovery, lost, steps[0] - steps[1], tuple(found))

    def _await(self, driver: Driver, folder: Path, stage: int, after: float) -> None:
        """Return `after` seconds into the stage."""
        driver.wait_for(lambda: (folder / "ledger.jsonl").exists() and len(stages(folder)) >= stage)
        time.sleep(after)

    def _kill(self, driver: Driver, fault: str, cluster: LocalCluster | None) -> None:
        """SIGKILL what the fault names, as soon as it is there; the run may have ended before."""
        end = time.monotonic() + RUN_TIMEOUT_S
        while not (found := victims(driver, fault, cluster)):
            if driver.process.poll() is not None or time.monotonic() > end:
                return
            time.sleep(0.1)
        random.Random(self._seed).choice(found).send_signal(signal.SIGKILL)


def _recovery(driver: Driver, folder: Path) -> float | None:
    """Seconds until something more is committed; None when the process ends before."""
    begin, before = time.monotonic(), committed(folder)
    while driver.process.poll() is None:
        if committed(folder) > before:
            return time.monotonic() - begin
        time.sleep(0.1)
    return None


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    lines = [
        "| # | killed | in | at, s | recovered in, s | run longer by, s | steps again | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        verdict = "; ".join(each.problems) or "survived"
        cells = [each.number, each.fault, each.stage, seconds(each.after_s), seconds(each.recovery_s)]
        lines.append(f"| {' | '.join(map(str, [*cells, seconds(each.lost_s), each.steps_again, verdict]))} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=len(FAULTS))
    parser.add_argument("--first", type=int, default=0, help="Number of the first fault.")
    parser.add_argument("--seed", type=int, default=1, help="Draws the moments.")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "chaos")
    given = parser.parse_args()
    adopt_orphans()
    given.folder.mkdir(parents=True, exist_ok=True)
    log = given.folder / "faults.jsonl"
    done = [Outcome(**json.loads(line)) for line in log.read_bytes().splitlines()] if log.exists() else []
    chaos = Chaos(given.folder, given.seed)
    chaos.prepare()
    for number in range(given.first, given.first + given.faults):
        if any(each.number == number for each in done):
            continue
        done.append(chaos.strike(number))
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
