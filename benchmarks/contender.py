"""One contender in a process of its own: `python -m benchmarks.contender NAME WORKLOAD-JSON OUTPUT-FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import measures
from benchmarks.workload import Outcome, Workload

NAMES = ("ours", "ours-vanilla", "trl", "trl-precompute", "authors-rule", "openrlhf")


def run(name: str, workload: Workload) -> Outcome:
    """Train as `name` does."""
    if name in ("ours", "ours-vanilla"):
        from benchmarks import by_us

        return by_us.train(workload, "vanilla" if name == "ours-vanilla" else "mask_dpo")
    if name == "openrlhf":
        from benchmarks import by_openrlhf

        return by_openrlhf.train(workload)
    from benchmarks import by_trl

    return by_trl.train(workload, precompute=name == "trl-precompute", authors=name == "authors-rule")


def main(argv: list[str]) -> None:
    """Run one and write its outcome."""
    name, workload, output = argv
    outcome = run(name, Workload.from_json(workload))
    Path(output).write_text(json.dumps(measures.plain(outcome)))


if __name__ == "__main__":
    main(sys.argv[1:])
