#!/usr/bin/env python3
"""What share of a run's time the driver spends on the run folder: ledger, answers, hashes, metrics, waits for the disk.

PYTHONPATH=. python benchmarks/ledger.py --config configs/smoke.yaml --run.dir /tmp/ledger --run.name a

Runs what it is given, as `python -m maskdpo_ray.run` does, with a clock around every method of the run folder and of
its metrics. The share is an upper bound of the overhead: actors go on while the driver writes.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from maskdpo_ray import run
from maskdpo_ray.run_folder import RunFolder
from maskdpo_ray.tracking import Tracker


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


def main() -> None:
    """Command line: that of maskdpo_ray.run."""
    clock = Clock()
    for name, _ in inspect.getmembers(RunFolder, inspect.isfunction):
        if not name.startswith("_"):
            clock.watch(RunFolder, name)
    clock.watch(Tracker, "log")
    begin = time.perf_counter()
    run.main(sys.argv[1:])
    total = time.perf_counter() - begin
    print(f"{'method':<24}{'calls':>8}{'seconds':>10}{'of the run':>12}")
    for name, seconds in clock.seconds.most_common(8):
        print(f"{name:<24}{clock.calls[name]:>8}{seconds:>10.3f}{seconds / total:>12.3%}")
    spent = sum(clock.seconds.values())
    print(f"{'all':<24}{sum(clock.calls.values()):>8}{spent:>10.3f}{spent / total:>12.3%}  of {total:.0f} s")


if __name__ == "__main__":
    main()
