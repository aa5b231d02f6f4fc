#!/usr/bin/env python3
"""Worth of each saving of our training: none of them, each alone, all but each, all.

PYTHONPATH=. python benchmarks/ablation.py --json ablation.json

Each row is a training through the real actor group, in processes of its own; the rows take turns. The savings are the
options `savings.*`, each of which keeps loss and gradients.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks import measures, training
from maskdpo_ray.config.schema import SavingsConfig

SAVINGS = tuple(field.name for field in dataclasses.fields(SavingsConfig) if isinstance(field.default, bool))


def variants(without_each: bool) -> dict[str, dict[str, Any]]:
    """Row -> options. `without_each`: also all savings but one."""

    def options(on: set[str]) -> dict[str, Any]:
        return {f"savings.{name}": name in on for name in SAVINGS}

    rows = {"none": options(set())}
    rows |= {f"only {name}": options({name}) for name in SAVINGS}
    if without_each:
        rows |= {f"all but {name}": options(set(SAVINGS) - {name}) for name in SAVINGS}
    return rows | {"all": options(set(SAVINGS))}


def shown(summaries: list[dict[str, Any]]) -> str:
    """The table: speed, also as a multiple of the row without savings, memory, and what layers and head computed."""
    first = summaries[0]
    rows = []
    for each in summaries:
        name = each["contender"].partition(":")[2]
        if "failed" in each:
            rows.append([name, f"failed: {each['failed'][:60]}", "", "", "", ""])
            continue
        times = "-"
        if "failed" not in first:
            times = f"{each['pairs_per_second']['median'] / first['pairs_per_second']['median']:.2f}"
        work = each["outcomes"][0]["details"]["work"].values()
        rows.append(
            [
                name,
                measures.shown_spread(each["pairs_per_second"], 3),
                times,
                measures.shown_spread(each["peak_memory_gib"]),
                str(sum(phase["tokens"] for phase in work)),
                str(sum(phase["head_rows"] for phase in work)),
            ]
        )
    header = ["savings", "pairs/s, median (range)", "times none", "peak memory, GiB", "tokens computed", "head rows"]
    return measures.table(header, rows)


def main() -> None:
    """Command line: take turns, print the table."""
    made = training.parser(__doc__ or "")
    made.add_argument("--contender", choices=["ours", "ours-vanilla"], default="ours")
    made.add_argument("--without_each", action="store_true", help="Also all savings but one, for each.")
    given = made.parse_args()
    rows = {f"{given.contender}:{name}": options for name, options in variants(given.without_each).items()}
    report = training.compare(training.workload_of(given), rows, given.repeats)
    print(shown(report["contenders"]))
    print(f"\n{training.shown_losses(report['contenders'])}")
    measures.keep(report, given.json)


if __name__ == "__main__":
    main()
