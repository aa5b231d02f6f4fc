#!/usr/bin/env python3
"""What an iteration takes beside what its work takes: (longer of rollout and annotation) + training + sync.

PYTHONPATH=. python benchmarks/iteration.py --config configs/quickstart.yaml --run.name iteration --run.iterations 2

Runs what it is given, as `python -m maskdpo_ray.run` does, and asks the groups of actors at the beginning and end of
each stage how long they have had work. Rollout and annotation are the seconds in which engines and annotators, in the
mean, had any in the stage that collects answers; training is the ranks', reference log-probs included. Evaluations are
not of the iteration. The iterations that a run folder holds already are not in the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from maskdpo_ray import run
from maskdpo_ray.loop import Loop
from maskdpo_ray.stages import BusySeconds
from maskdpo_ray.tracking import Tracker

STAGES = ("collect", "reference", "train", "sync", "iteration")
COLUMNS = ("collect", "rollout", "annotation", "training", "sync", "iteration")


@dataclass
class Stopwatch:
    """Seconds by iteration and column of the table."""

    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def watch(self, busy_seconds: BusySeconds) -> None:
        """Put itself around every stage of `Tracker`."""
        stage = Tracker.stage

        @contextmanager
        def watched(tracker: Tracker, name: str, step: int | None = None) -> Iterator[None]:
            before, begin = busy_seconds(), monotonic()
            with stage(tracker, name, step):
                yield
            seconds, after = monotonic() - begin, busy_seconds()
            self._take(name, step, seconds, {group: after[group] - before[group] for group in after})

        Tracker.stage = watched  # type: ignore[method-assign]

    def _take(self, name: str, step: int | None, seconds: float, busy: dict[str, float]) -> None:
        """Of a stage that is through: its seconds, and those in which each group of actors had work."""
        if step is None or name not in STAGES:
            return
        row = self.rows.setdefault(step, dict.fromkeys(COLUMNS, 0.0))
        if name == "collect":
            row |= {group: busy[group] for group in ("rollout", "annotation")}
        if name in ("reference", "train"):
            row["training"] += busy["training"]
        else:
            row[name] += seconds


def work(row: dict[str, float]) -> float:
    """Seconds of an iteration whose parts follow each other without a gap."""
    return max(row["rollout"], row["annotation"]) + row["training"] + row["sync"]


def shown(rows: dict[int, dict[str, float]]) -> str:
    """As text."""
    lines = [f"{'':<10}{''.join(f'{name:>12}' for name in COLUMNS)}{'/ work':>10}"]
    for step, row in sorted(rows.items()):
        ratio = row["iteration"] / work(row)
        lines.append(f"{step:<10}{''.join(f'{row[name]:>12.2f}' for name in COLUMNS)}{ratio:>10.3f}")
    return "\n".join(lines)


def main() -> None:
    """Command line: that of maskdpo_ray.run."""
    stopwatch, loop = Stopwatch(), Loop.run

    def watched(self: Loop) -> None:
        stopwatch.watch(self.stages.busy_seconds)
        loop(self)

    Loop.run = watched  # type: ignore[method-assign]
    run.main(sys.argv[1:])
    print("\nSeconds by iteration; work: the longer of rollout and annotation, training, sync")
    print(shown(stopwatch.rows))


if __name__ == "__main__":
    main()
