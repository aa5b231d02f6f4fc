#!/usr/bin/env python3
"""How fast and how big the driver is when engines, annotators and ranks are simulated: one iteration of many answers.

PYTHONPATH=. python benchmarks/simulation.py --questions 125000 --engines 4 --slots 64 --seconds 0.3 --json big.json

Real: Ray, `Loop`, the groups and their pool, the run folder with its ledger, tokenizer, masks, pairs. Simulated, with
the same methods (`simulated.py`): engines, which answer `slots` questions at a time and take `seconds` for each, the
annotator, which real annotation actors host, and training ranks. Engines share a few processes (`--processes`), each of
them a handle of its own for the driver.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.cloudpickle

from actors import weights
from actors.groups import RolloutGroup
from benchmarks import measures, simulated
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import (
    AnnotationConfig,
    ClusterConfig,
    Config,
    EvalConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    VllmConfig,
)
from maskdpo_ray.loop import Loop
from maskdpo_ray.models import chat as models_chat
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.store.question_log import log_path
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

ray.cloudpickle.register_pickle_by_value(simulated)  # workers don't have benchmarks/ on their path

ALL_CALLS = 100_000
"""More than are running at any time: an engine queues what finds no slot."""
NUM_SAMPLES = 8
"""Answers to a training question; evaluation asks for fewer, and so is told apart."""


class Handle:
    """One of several engines in an actor's process, called as a Ray handle is."""

    def __init__(self, actor: Any, index: int) -> None:
        self._actor, self._index = actor, index

    def __getattr__(self, method: str) -> Any:
        return _Method(self._actor.on, self._index, method)


class _Method:
    def __init__(self, on: Any, index: int, method: str) -> None:
        self._on, self._index, self._method = on, index, method

    def options(self, **options: Any) -> _Method:
        return _Method(self._on.options(**options), self._index, self._method)

    def remote(self, *arguments: Any) -> Any:
        return self._on.remote((self._index, self._method, arguments))  # one argument, as real engines get


class SimulatedCluster(Cluster):
    """The real one, but for what engines are."""

    def __init__(self, config: Config, phrases: simulated.Phrases, processes: int, slots: int, seconds: float) -> None:
        super().__init__(config, rank=simulated.SimulatedRank)
        self._phrases, self._processes, self._slots, self._seconds = phrases, processes, slots, seconds

    def _start_engines(self, policy: Any, chat: Chat) -> RolloutGroup:
        total = self._config.rollout.num_engines
        shares = [len(range(first, total, self._processes)) for first in range(self._processes)]
        kind = self._actor(simulated.SimulatedEngines, ALL_CALLS, {"num_cpus": 0})
        actors = [kind.remote(self._phrases, policy, share, self._slots, self._seconds) for share in shares]
        self._handles += actors
        self.engines = [Handle(actors[i % self._processes], i // self._processes) for i in range(total)]
        return RolloutGroup(self._config, self.engines, chat)


@dataclass(frozen=True)
class Seen:
    """At one moment of a run."""

    seconds: float
    """Since the start."""
    questions: int
    """Committed."""
    mib: float
    """The driver's memory."""
    cpu_s: float
    """Seconds that the driver's main thread, which runs the loop, has worked."""


class Watch(threading.Thread):
    """Looks at the run from outside the loop; questions are the lines of the first iteration's log."""

    def __init__(self, log: Path, interval_s: float = 1.0) -> None:
        super().__init__(daemon=True)
        self._log, self._interval_s = log, interval_s
        self._done = threading.Event()
        self.rows: list[Seen] = []

    def run(self) -> None:
        start, count, process, at = time.monotonic(), 0, psutil.Process(), 0
        while not self._done.wait(self._interval_s):
            if self._log.exists():
                with self._log.open("rb") as file:
                    file.seek(at)
                    while new := file.read(2**20):
                        at += len(new)
                        count += new.count(b"\n")
            main = next(thread for thread in process.threads() if thread.id == process.pid)
            cpu_s, mib = main.user_time + main.system_time, process.memory_info().rss / 2**20
            self.rows.append(Seen(time.monotonic() - start, count, mib, cpu_s))

    def stop(self) -> None:
        self._done.set()
        self.join()

    def cpu_ms(self) -> float | None:
        """Milliseconds of the main thread for each question between the first and the last seen; None of too few."""
        rows = [row for row in self.rows if 0 < row.questions < self.rows[-1].questions]
        if len(rows) < 2 or rows[0].questions == rows[-1].questions:
            return None
        return 1000 * (rows[-1].cpu_s - rows[0].cpu_s) / (rows[-1].questions - rows[0].questions)


def config_for(arguments: argparse.Namespace, folder: Path) -> Config:
    """All else by default."""
    return Config(
        run=RunConfig(name="run", dir=str(folder), iterations=1),
        model=ModelConfig(model_name_or_path=str(arguments.model)),
        rollout=RolloutConfig(num_engines=arguments.engines, n_samples_per_prompt=NUM_SAMPLES),
        vllm=VllmConfig(max_num_seqs=arguments.slots * NUM_SAMPLES),
        annotation=AnnotationConfig(num_actors=arguments.annotators),
        train=TrainConfig(num_ranks=1, max_epochs=1, batch_size=512, save_steps=-1),
        eval=EvalConfig(n_samples_per_prompt=2, bootstrap_samples=100),
        cluster=ClusterConfig(cpus_per_rank=0.1, cpus_per_engine=0, start_timeout_s=300, step_timeout_s=600),
    )


def simulate(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run; its figures."""
    config = config_for(arguments, folder)
    own = models_chat.of(config, model_folder.load(config.model).tokenizer)
    phrases = simulated.Phrases.of(own.tokenizer, arguments.rounds)
    policy_folder = folder / "model"
    simulated.write_policy(policy_folder, b"initial")
    initial = weights.publish(policy_folder, 0)
    train = simulated.questions(arguments.questions, "train")
    evaluation = {"heldout": simulated.questions(16, "heldout")}
    resolved, path = cli.resolved(config), folder / "run"

    with RunFolder.open(path, resolved, {}) as run_folder, Tracker(path, config.logger, resolved) as tracker:
        shape = (phrases, min(arguments.processes, arguments.engines), arguments.slots, arguments.seconds)
        with SimulatedCluster(config, *shape) as cluster:
            groups = cluster.start(initial, own, simulated.SimulatedAnnotator(phrases))
            watch = Watch(path / log_path(0))
            watch.start()
            Loop(config, train, evaluation, own, initial, groups, run_folder, tracker).run()
            watch.stop()
            slot_seconds = sum(ray.get([engine.slot_seconds.remote(NUM_SAMPLES) for engine in cluster.engines]))
    return figures(arguments, path, watch, slot_seconds)


_REPORT = """
import json, resource, sys, time
from pathlib import Path
from maskdpo_ray.report import page
begun = time.monotonic()
file = page.write(Path(sys.argv[1]))
mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.monotonic() - begun, "peak_mib": mib, "bytes": file.stat().st_size}))
"""


def report(path: Path) -> dict[str, float]:
    """Seconds, memory and size of the run's page, made by a process of its own."""
    done = subprocess.run([sys.executable, "-c", _REPORT, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    return {name: round(value, 1) for name, value in json.loads(done.stdout).items()}


def figures(arguments: argparse.Namespace, path: Path, watch: Watch, slot_seconds: float) -> dict[str, Any]:
    """Figures that a run left."""
    timings: dict[str, float] = {}
    for line in (path / "metrics.jsonl").read_text().splitlines():
        timings |= {name: value for name, value in json.loads(line).items() if name.startswith("timing/")}
    collect, answers = timings["timing/collect_s"], arguments.questions * NUM_SAMPLES
    ideal = slot_seconds / (arguments.engines * arguments.slots)
    return {
        "answers": answers,
        "engines": arguments.engines,
        "slots": arguments.slots,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "collect_s": round(collect, 2),
        "answers_per_s": round(answers / collect, 1),
        "ideal_s": round(ideal, 2),
        "lost": round(1 - ideal / collect, 4),
        "timings": {name.removeprefix("timing/"): round(value, 2) for name, value in timings.items()},
        "bytes": {str(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*.jsonl"))},
        "loop_ms": None if (spent := watch.cpu_ms()) is None else round(spent, 3),
        "report": report(path),
        "peak_mib": round(max((row.mib for row in watch.rows), default=0.0), 1),
        "memory": [(round(row.seconds, 1), row.questions * NUM_SAMPLES, round(row.mib, 1)) for row in watch.rows],
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    print(
        f"{found['answers']} answers, {found['engines']} engines x {found['slots']} slots x {found['seconds']} s: "
        f"{found['collect_s']} s, {found['answers_per_s']} answers/s; ideal {found['ideal_s']} s, "
        f"lost {found['lost']:.1%}; stages: {found['timings']}"
    )
    if found["loop_ms"]:
        alone = 1000 * NUM_SAMPLES / found["loop_ms"]
        print(f"the loop's thread: {found['loop_ms']} ms a question, so {alone:,.0f} answers/s with a core to itself")
    rows = found["memory"]
    print(f"{'s':>8}{'answers':>10}{'MiB':>8}")
    for seconds, answers, mib in rows[:: max(1, len(rows) // 24)]:
        print(f"{seconds:>8.1f}{answers:>10}{mib:>8.1f}")
    print(f"highest: {found['peak_mib']:.1f} MiB")
    page = found["report"]
    print(f"page of the run: {page['seconds']:.1f} s, {page['peak_mib']:.0f} MiB, {page['bytes']:,.0f} bytes")


def parse(words: list[str]) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=measures.count, default=2000, help="8 answers each")
    parser.add_argument("--engines", type=measures.count, default=4)
    parser.add_argument("--processes", type=measures.count, default=2, help="processes that the engines share")
    parser.add_argument("--annotators", type=measures.count, default=1)
    parser.add_argument("--slots", type=measures.count, default=64, help="questions that an engine answers at a time")
    parser.add_argument("--seconds", type=float, default=0.3, help="that a question takes, give or take a fifth")
    parser.add_argument("--rounds", type=measures.count, default=1, help="multiple of five sentences per answer")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"), help="its tokenizer")
    parser.add_argument("--folder", type=Path, help="for the run; none: a temporary one")
    measures.json_option(parser)
    return parser.parse_args(words)


def main(words: list[str]) -> None:
    """Command line."""
    arguments = parse(words)
    with tempfile.TemporaryDirectory(prefix="simulation-") as temporary:
        found = simulate(arguments, arguments.folder or Path(temporary))
    show(found)
    measures.keep(found, arguments.json)


if __name__ == "__main__":
    main(sys.argv[1:])
