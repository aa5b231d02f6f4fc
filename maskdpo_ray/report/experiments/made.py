"""How an experiment's table was made: command, commits, versions, machine, and time of each run.

It lies beside the table, which is the same however often its runs were interrupted.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

from maskdpo_ray.config.experiment import Experiment
from maskdpo_ray.records import Record, encode_line
from maskdpo_ray.report.comparison import FinishedRun
from maskdpo_ray.store import files
from maskdpo_ray.store.ledger import Finished, Opened, read_entries, worked

FILE = "made.json"
OF_EXPERIMENT = "experiment.yaml"
"""The experiment's file, as run."""


class MadeRun(Record):
    """How a run was made."""

    started: str
    """Date of its first process, UTC: 2026-11-30."""
    commits: tuple[str, ...]
    """Commits of the package that its processes ran, where known."""
    versions: dict[str, str]
    """Package -> version, of its last process."""
    seconds: float
    """Time that its processes worked: what it took over from another run is not in it."""
    shared: str
    """Results taken over, and from which run; empty: none."""


class Made(Record):
    """How all finished runs were made."""

    command: str
    machine: str
    """The one that wrote this."""
    hosts: int
    """Machines that runs were started on."""
    runs: dict[str, MadeRun]


def write(experiment: Experiment, runs: Mapping[str, FinishedRun]) -> None:
    """Write made.json and a copy of the experiment's file into its folder. Raises RunFolderError."""
    made, hosts = {}, set()
    for name, run in runs.items():
        entries = read_entries(run.folder / "ledger.jsonl")
        opened = [entry for entry in entries if isinstance(entry, Opened)]
        hosts |= {entry.host for entry in opened}
        forks = [entry.facts for entry in entries if isinstance(entry, Finished) and entry.stage == "fork"]
        commits = [entry.versions["commit"] for entry in opened if "commit" in entry.versions]
        made[name] = MadeRun(
            datetime.fromtimestamp(opened[0].time, UTC).date().isoformat(),
            tuple(dict.fromkeys(commits)),
            {package: version for package, version in opened[-1].versions.items() if package != "commit"},
            worked(entries),
            f"{forks[0]['of']}: {forks[0]['shared']}" if forks else "",
        )
    command = f"python -m maskdpo_ray.experiment {shlex.quote(str(experiment.file))}"
    found = Made(command, machine(), len(hosts), made)
    files.write_whole(experiment.folder / FILE, encode_line(found))
    files.write_whole(experiment.folder / OF_EXPERIMENT, experiment.file.read_bytes())


def machine() -> str:
    """This machine in words: processor, cores, memory."""
    file = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", file.read_text()) if file.is_file() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{named[1] if named else 'unknown processor'}, {cores} cores, {memory:.0f} GiB"
