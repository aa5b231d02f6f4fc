#!/usr/bin/env python3
"""Peak memory and results of one run with and without `cluster.colocate`.

PYTHONPATH=. python benchmarks/colocate_memory.py --config configs/smoke.yaml

Runs `python -m maskdpo_ray.run` twice, into folders of its own. Memory is the sum over the run's processes, sampled:
the proportional set size of each (Linux' smaps_rollup), in which a page that n processes share counts for an n-th.
Compared byte by byte: every policy, answers with labels and pairs, and the evaluations' figures. Ends with 1 when any
differs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import measures

MIB = 2**20
COMPARED = (
    "iter_*/policy/*.safetensors",
    "iter_*/*.jsonl",
    "eval_*/*.jsonl",
    "eval_*/*.json",
    "iter_*/pairs-summary.json",
)
"""Files of a run folder that have no times in them."""


@dataclass(frozen=True)
class Measured:
    """One run."""

    seconds: float
    peak: int
    """Bytes, of all processes together."""
    of: dict[str, int]
    """Bytes by process title at the peak, largest first."""
    samples: int


def proportional_set(pid: int) -> int:
    """Bytes of a process; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def title(process: psutil.Process) -> str:
    """First word of a process' command line, which Ray and vLLM set for their own; of Python's, the module."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return "gone"
    first = Path(words[0]).name.split()[0] if words and words[0] else "gone"
    return words[2] if first.startswith("python") and words[1:2] == ["-m"] else first


def measured(command: list[str], interval: float) -> Measured:
    """Run a command to its end. Raises SystemExit when it fails."""
    begin, peak, parts, samples = time.monotonic(), 0, {}, 0
    with tempfile.TemporaryFile() as output:
        running = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while running.poll() is None:
            sizes: dict[str, int] = {}
            for process in [running, *running.children(recursive=True)]:
                sizes[title(process)] = sizes.get(title(process), 0) + proportional_set(process.pid)
            samples += 1
            if sum(sizes.values()) > peak:
                peak, parts = sum(sizes.values()), sizes
            time.sleep(interval)
        if running.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: {output.read().decode(errors='replace')[-2000:]}")
    of = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return Measured(time.monotonic() - begin, peak, of, samples)


def different(one: Path, other: Path) -> list[str]:
    """Names of compared files that are not the same in both folders, or in one only."""
    names = {
        str(file.relative_to(folder)) for folder in (one, other) for glob in COMPARED for file in folder.glob(glob)
    }
    if not names:
        raise SystemExit(f"{one}: expected a run folder with policies and answers")
    return sorted(name for name in names if content(one / name) != content(other / name))


def content(file: Path) -> Any:
    """Bytes of a file, of a log its sorted lines: questions finish in any order. None: there is no such file."""
    if not file.exists():
        return None
    return sorted(file.read_bytes().splitlines()) if file.suffix == ".jsonl" else file.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config of the run")
    parser.add_argument("--interval", type=float, default=0.3, help="seconds between two samples")
    measures.json_option(parser)
    given, options = parser.parse_known_args()
    runs: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="maskdpo-colocate-") as folder:
        for name, value in (("apart", "false"), ("colocated", "true")):
            own = ["--config", given.config, "--run.dir", folder, "--run.name", name, "--cluster.colocate", value]
            runs[name] = measured([sys.executable, "-m", "maskdpo_ray.run", *own, *options], given.interval)
        differ = different(Path(folder) / "apart", Path(folder) / "colocated")
    ratio = runs["colocated"].peak / runs["apart"].peak
    rows = [
        [
            name,
            f"{run.peak / MIB:,.0f}",
            f"{run.seconds:.0f}",
            ", ".join(f"{k} {v / MIB:,.0f}" for k, v in run.of.items()),
        ]
        for name, run in runs.items()
    ]
    print(measures.table(["run", "peak, MiB", "seconds", "at the peak, MiB"], rows))
    print(f"\ncolocated / apart: {ratio:.2f}; files that differ: {', '.join(differ) or 'none'}")
    found = {name: measures.plain(run) for name, run in runs.items()}
    measures.keep(
        {**found, "ratio": ratio, "differ": differ, "options": options, "machine": measures.machine()}, given.json
    )
    if differ:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
