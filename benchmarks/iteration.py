#!/usr/bin/env python3
"""Time of an iteration beside that of its work: (longer of rollout and annotation) + training + sync.

PYTHONPATH=. python benchmarks/iteration.py --config configs/quickstart.yaml --run.iterations 2 --json iteration.json

Does the run that a command line of `python -m maskdpo_ray.run` asks for, `--repeats` times, each in a process of its
own and in a new folder within run.dir, which is removed again. Asks the groups of actors at the beginning and end of
each stage how long they have had work. Rollout and annotation are the seconds in which engines and annotators, in the
mean, had any in the stage that collects answers; training is the ranks', reference log-probs included. Evaluations are
not of the iteration, but of the idle shares, which are the run's own: of an iteration and the evaluation after it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import measures, turns
from maskdpo_ray import run
from maskdpo_ray.config import cli
from maskdpo_ray.errors import UserError
from maskdpo_ray.loop import Loop
from maskdpo_ray.store.tracking import Tracker

NAMES = ("ours",)
STAGES = ("collect", "reference", "train", "sync", "iteration")
COLUMNS = ("collect", "rollout", "annotation", "training", "sync", "iteration")
OVER_WORK = "over_work"


@dataclass
class Stopwatch:
    """Seconds by iteration and column of the table."""

    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def watch(self, busy_seconds: Callable[[], dict[str, float]]) -> None:
        """Put itself around every stage of `Tracker`."""
        stage = Tracker.stage

        @contextmanager
        def watched(tracker: Tracker, name: str, step: int | None = None, *counts: Any) -> Iterator[None]:
            before, begin = busy_seconds(), monotonic()
            with stage(tracker, name, step, *counts):
                yield
            seconds, after = monotonic() - begin, busy_seconds()
            self._take(name, step, seconds, {group: after[group] - before[group] for group in after})

        Tracker.stage = watched  # type: ignore[method-assign]

    def _take(self, name: str, step: int | None, seconds: float, busy: dict[str, float]) -> None:
        """Note of a finished stage its seconds, and those in which each group of actors had work."""
        if step is None or name not in STAGES:
            return
        row = self.rows.setdefault(step, dict.fromkeys(COLUMNS, 0.0))
        if name == "collect":
            row |= {group: busy[group] for group in ("rollout", "annotation")}
        if name in ("reference", "train"):
            row["training"] += busy["training"]
        else:
            row[name] += seconds


def work(row: Mapping[str, float]) -> float:
    """Seconds of an iteration whose parts follow each other without a gap."""
    return max(row["rollout"], row["annotation"]) + row["training"] + row["sync"]


def idle_shares(metrics: Path) -> dict[int, dict[str, float]]:
    """By iteration and group of actors, as the run logged them."""
    found: dict[int, dict[str, float]] = {}
    for line in metrics.read_text().splitlines():
        logged = json.loads(line)
        shares = {name.removeprefix("idle/"): value for name, value in logged.items() if name.startswith("idle/")}
        if shares:
            found.setdefault(logged["step"], {}).update(shares)
    return found


def take_part(command: Sequence[str]) -> turns.Outcome:
    """One run, in this process: {"iterations": [{"iteration", "seconds" by column, "idle" by group}]}."""
    config, stopwatch, loop = cli.parse(list(command)).config, Stopwatch(), Loop.run

    def watched(self: Loop) -> None:
        stopwatch.watch(self.groups.busy_seconds)
        loop(self)

    Loop.run = watched  # type: ignore[method-assign]
    parent = Path(config.run.dir)
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="iteration-", dir=parent) as folder:
        own = dataclasses.replace(config, run=dataclasses.replace(config.run, name="run", dir=folder))
        file = Path(folder) / "config.yaml"
        file.write_text(cli.to_yaml(own))
        run.main(["--config", str(file)])
        idle = idle_shares(Path(folder) / "run" / "metrics.jsonl")
    rows = sorted(stopwatch.rows.items())
    return {"iterations": [{"iteration": step, "seconds": row, "idle": idle.get(step, {})} for step, row in rows]}


def report(outcomes: dict[str, list[turns.Outcome]]) -> dict[str, Any]:
    """Figures of each iteration, over the turns: seconds by column, ratio to the work's, idle shares by group."""
    taken: dict[int, list[dict[str, Any]]] = {}
    for outcome in outcomes["ours"]:
        for each in outcome["iterations"]:
            taken.setdefault(each["iteration"], []).append(each)
    iterations = []
    for step, own in sorted(taken.items()):
        seconds = {name: measures.spread([each["seconds"][name] for each in own]) for name in COLUMNS}
        ratio = measures.spread([each["seconds"]["iteration"] / work(each["seconds"]) for each in own])
        groups = sorted({group for each in own for group in each["idle"]})
        idle = {
            group: measures.spread([each["idle"][group] for each in own if group in each["idle"]]) for group in groups
        }
        iterations.append({"iteration": step, "seconds": seconds, OVER_WORK: ratio, "idle": idle})
    return {"machine": measures.machine(), "iterations": iterations, "outcomes": outcomes}


def shown(found: dict[str, Any]) -> str:
    """Two tables."""
    groups = sorted({group for each in found["iterations"] for group in each["idle"]})
    seconds, shares = [], []
    for each in found["iterations"]:
        step = str(each["iteration"])
        cells = [measures.shown_spread(each["seconds"][name]) for name in COLUMNS]
        seconds.append([step, *cells, measures.shown_spread(each[OVER_WORK], 3)])
        own = each["idle"]
        shares.append([step, *(measures.shown_spread(own[group]) if group in own else "-" for group in groups)])
    return (
        "Seconds by iteration, median (range); work: the longer of rollout and annotation, training, sync\n"
        f"{measures.table(['iteration', *COLUMNS, '/ work'], seconds)}\n\n"
        "Share of an iteration and the evaluation after it in which a group of actors had no work\n"
        f"{measures.table(['iteration', *(f'{group} idle' for group in groups)], shares)}"
    )


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Command line: our options, and what is left of it, which is a run's. Raises UserError."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    turns.of_turns(made, NAMES, repeats=2)
    given, command = made.parse_known_args(words)
    if cli.parse(command).dry_run:
        made.error("--dry_run: there would be nothing to measure")
    return given, command


def main(words: list[str]) -> None:
    """Command line: do the runs, print the tables."""
    given, command = parse(words)

    def said(outcome: turns.Outcome) -> str:
        return ", ".join(f"{each['seconds']['iteration']:.1f} s" for each in outcome["iterations"])

    turns.run(Path(__file__), words, given, lambda _: take_part(command), said, report, shown)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
