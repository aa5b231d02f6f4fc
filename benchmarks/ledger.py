#!/usr/bin/env python3
"""Share of a run's time that the driver spends on the run folder: ledger, answers, hashes, metrics, waits for the disk.

PYTHONPATH=. python benchmarks/ledger.py --config configs/smoke.yaml --run.dir /tmp/ledger --run.name a --json a.json

Runs what it is given, as `python -m maskdpo_ray.run` does, with a clock around every method of the run folder and of
its metrics. The share is an upper bound of the overhead: actors go on while the driver writes.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

from benchmarks import measures
from maskdpo_ray import run
from maskdpo_ray.store.question_log import Committer, QuestionLog
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

WATCHED: list[tuple[type, str]] = [
    (kind, name)
    for kind in (RunFolder, QuestionLog)
    for name, _ in inspect.getmembers(kind, inspect.isfunction)
    if not name.startswith("_") and name != "write"  # which a thread calls beside the run
] + [(Committer, "commit"), (Committer, "__exit__"), (Tracker, "_write")]


class Clock:
    """Seconds by method; those of a call within another count once, for the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._is_running = False

    def watch(self, kind: type, name: str) -> None:
        """Put itself around the method `name` of `kind`, what it yields included."""
        method = getattr(kind, name)

        @wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            result = self._time(name, lambda: method(*arguments, **named))
            return self._each(name, result) if inspect.isgenerator(result) else result

        setattr(
            kind, name, staticmethod(timed) if isinstance(inspect.getattr_static(kind, name), staticmethod) else timed
        )

    def _time(self, name: str, call: Callable[[], Any]) -> Any:
        if self._is_running:
            return call()
        self._is_running, begin = True, time.perf_counter()
        try:
            return call()
        finally:
            self._is_running = False
            self.seconds[name] += time.perf_counter() - begin

    def _each(self, name: str, values: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (value := self._time(name, lambda: next(values, end))) is not end:
            yield value


def report(clock: Clock, total: float) -> dict[str, Any]:
    """Calls and seconds by method, the longest first, and in sum; `total`: seconds of the whole run."""
    methods = {name: {"calls": clock.calls[name], "seconds": seconds} for name, seconds in clock.seconds.most_common()}
    spent = sum(clock.seconds.values())
    every = {"calls": sum(clock.calls.values()), "seconds": spent}
    return {
        "machine": measures.machine(),
        "run_seconds": total,
        "share": spent / total,
        "all": every,
        "methods": methods,
    }


def shown(found: dict[str, Any]) -> str:
    """The table: the eight that took longest, and all."""
    named = [*list(found["methods"].items())[:8], ("all", found["all"])]
    rows = [
        [name, str(own["calls"]), f"{own['seconds']:.3f}", f"{own['seconds'] / found['run_seconds']:.3%}"]
        for name, own in named
    ]
    table = measures.table(["method", "calls", "seconds", "of the run"], rows)
    return f"{table}\nThe run took {found['run_seconds']:.0f} s"


def main(words: Sequence[str]) -> None:
    """Command line: that of maskdpo_ray.run, and `--json FILE`."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    measures.json_option(made)
    given, command = made.parse_known_args(words)
    clock = Clock()
    for kind, name in WATCHED:
        clock.watch(kind, name)
    begin = time.perf_counter()
    run.main(command)
    found = report(clock, time.perf_counter() - begin)
    print(shown(found))
    measures.keep(found, given.json)


if __name__ == "__main__":
    main(sys.argv[1:])
