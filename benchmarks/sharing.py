#!/usr/bin/env python3
"""Time of an experiment whose arms share stages, over that of the same runs started one by one.

PYTHONPATH=. python benchmarks/sharing.py --experiment configs/experiments/mask.yaml --seeds 1 --json sharing.json

Without an experiment: the smoke test's config with the mask and without, one seed. Seeds share nothing, so that one
of them gives the ratio of all. Each way runs in a new folder within --dir, which is removed again: the experiment as a
command, from its start to its table; the same runs as commands of their own, by the sum of their times.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

from benchmarks import measures, turns
from maskdpo_ray import experiment as command
from maskdpo_ray.config import cli
from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.config.experiment import Experiment
from maskdpo_ray.errors import UserError
from maskdpo_ray.report.experiments.table import METRICS
from maskdpo_ray.store import ledger

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("shared", "separate")
SMOKE: dict[str, Any] = {
    "base": str(ROOT / "configs" / "smoke.yaml"),
    "options": {"run.iterations": 1},
    "seeds": [1],
    "arms": {"masked": {}, "unmasked": {"mask.policy": "vanilla"}},
}


def written(given: argparse.Namespace, folder: Path) -> Path:
    """The experiment's file with as many of its seeds as are asked for, in `folder`. Raises UserError."""
    values, file = SMOKE, folder / "smoke.yaml"
    if given.experiment is not None:
        source = Path(given.experiment)
        experiment_file.read(source, folder, tuple(METRICS))  # refuses what is none
        values, file = yaml.safe_load(source.read_bytes()), folder / source.name
        for of, name in [(values, "base"), *((arm, "recipe") for arm in values["arms"].values() if arm)]:
            if name in of:  # relative to the file
                of[name] = str((source.parent / of[name]).resolve())
    file.write_text(yaml.safe_dump({**values, "seeds": values["seeds"][: given.seeds]}, sort_keys=False))
    return file


def take_part(name: str, given: argparse.Namespace) -> turns.Outcome:
    """Do all runs one way: {"seconds", "runs": name -> seconds of work, by the run's own account}.

    Raises SystemExit when one of them fails.
    """
    parent = Path(given.dir)
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sharing-", dir=parent) as place:
        folder = Path(place).resolve()
        file = written(given, folder)
        experiment = experiment_file.read(file, folder / name, tuple(METRICS))
        seconds = shared(file, folder / name) if name == "shared" else separate(experiment)
        entries = {run.name: experiment.folder / "runs" / run.name / "ledger.jsonl" for run in experiment.runs}
        worked = {run: ledger.worked(ledger.read_entries(path)) for run, path in entries.items()}
    return {"seconds": seconds, "runs": worked}


def shared(file: Path, folder: Path) -> float:
    """Seconds of the experiment's command."""
    begin = monotonic()
    words = [sys.executable, "-m", "maskdpo_ray.experiment", str(file), "--dir", str(folder)]
    if code := subprocess.run(words).returncode:
        raise SystemExit(f"{file}: the experiment ended with {code}")
    return monotonic() - begin


def separate(experiment: Experiment) -> float:
    """Seconds of all runs as commands of their own."""
    seconds = 0.0
    for run in experiment.runs:
        begin = monotonic()
        if code := command.start(run, experiment.folder):
            raise SystemExit(f"{run.name} ended with {code}")
        seconds += monotonic() - begin
    return seconds


def report(outcomes: dict[str, list[turns.Outcome]]) -> dict[str, Any]:
    """Figures of both ways over the turns, and their ratio."""
    seconds = {name: [each["seconds"] for each in outcomes[name]] for name in NAMES}
    return {
        "machine": measures.machine(),
        "seconds": {name: measures.spread(each) for name, each in seconds.items()},
        "ratio": turns.ratio(seconds["shared"], seconds["separate"]),
        "outcomes": outcomes,
    }


def shown(found: dict[str, Any]) -> str:
    """A table of the two ways, one of each run's seconds, and the ratio."""
    rows = [[name, measures.shown_spread(each)] for name, each in found["seconds"].items()]
    runs = {name: found["outcomes"][name][-1]["runs"] for name in NAMES}
    work = [[run, *(f"{runs[name][run]:.0f}" for name in NAMES)] for run in runs["shared"]]
    return (
        f"{measures.table(['runs', 'seconds, median (range)'], rows)}\n\n"
        f"Seconds of work by run, start and end of its process left out\n"
        f"{measures.table(['run', *NAMES], work)}\n\n"
        f"shared / separate: {measures.shown_spread(found['ratio'], 3)}"
    )


def main(words: list[str]) -> None:
    """Command line: do the runs, print the tables."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    turns.of_turns(made, NAMES, repeats=1)
    made.add_argument("--experiment", metavar="FILE", help="file of an experiment")
    made.add_argument("--seeds", type=measures.count, help="how many of its seeds; default: all")
    made.add_argument("--dir", default="experiments", help="default: experiments")
    given = made.parse_args(words)

    def said(outcome: turns.Outcome) -> str:
        return f"{outcome['seconds']:.0f} s"

    turns.run(Path(__file__), words, given, lambda name: take_part(name, given), said, report, shown)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
