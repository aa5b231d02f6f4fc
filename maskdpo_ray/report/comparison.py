"""Finished runs side by side, as a Markdown table: `python -m maskdpo_ray.report.comparison runs/a runs/b`.

Runs that share seed, model and questions and differ in the mask also share their first iteration's
answers, because rollouts are seeded; the table says whether they do.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from maskdpo_ray import cli
from maskdpo_ray.errors import RunFolderError, UserError

_COLUMNS = (
    "mask",
    "seed",
    "score",
    "gain [95% interval]",
    "correct facts",
    "incorrect facts",
    "sentences",
    "says nothing checkable",
    "transfer score",
)


def main(folders: Sequence[str]) -> None:
    """Print the table of the runs in `folders`. Raises RunFolderError for a folder without a summary."""
    if not folders or folders[0].startswith("-"):
        raise RunFolderError("usage: python -m maskdpo_ray.report.comparison RUN_FOLDER [RUN_FOLDER ...]")
    runs = sorted((_read(Path(folder)) for folder in folders), key=lambda run: (str(run["mask"]), run["seed"]))
    print("| " + " | ".join(_COLUMNS) + " |")
    print("|" + "---|" * len(_COLUMNS))
    for run in runs:
        print("| " + " | ".join(_row(run)) + " |")
    for mask in sorted({run["mask"] for run in runs}):
        mine = [run for run in runs if run["mask"] == mask]
        print("| " + " | ".join(_mean_row(mask, mine)) + " |")
    for seed in sorted({run["seed"] for run in runs}):
        pairs = {run["pairs_sha256"] for run in runs if run["seed"] == seed}
        verdict = "are the same in every run" if len(pairs) == 1 else "DIFFER between runs"
        print(f"\nseed {seed}: first-iteration pairs {verdict}")


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "summary.json"
    if not file.is_file():
        raise RunFolderError(f"{file}: expected the summary of a finished run, found none")
    summary = json.loads(file.read_text(encoding="utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    pairs = sorted((folder / "iter_000" / "pairs.jsonl").read_bytes().splitlines())
    return {
        "mask": config["mask"]["policy"] if isinstance(config["mask"]["policy"], str) else "custom",
        "seed": config["run"]["seed"],
        "heldout": summary["evaluations"]["heldout"],
        "transfer": summary["evaluations"].get("transfer"),
        "pairs_sha256": hashlib.sha256(b"\n".join(pairs)).hexdigest(),
    }


def _ends(versions: list[dict[str, Any]], metric: str) -> tuple[float, float]:
    return versions[0]["metrics"][metric]["mean"], versions[-1]["metrics"][metric]["mean"]


def _values(run: dict[str, Any]) -> dict[str, tuple[float, float]]:
    values = {
        metric: _ends(run["heldout"], metric)
        for metric in ("score", "correct_facts", "incorrect_facts", "sentences", "nothing_checkable")
    }
    if run["transfer"]:
        values["transfer"] = _ends(run["transfer"], "score")
    return values


def _cells(values: dict[str, tuple[float, float]]) -> list[str]:
    cells = [
        f"{before:.2f} → {after:.2f}"
        for before, after in (values[name] for name in ("correct_facts", "incorrect_facts", "sentences"))
    ]
    before, after = values["nothing_checkable"]
    cells.append(f"{before:.1%} → {after:.1%}")
    cells.append("{:.3f} → {:.3f}".format(*values["transfer"]) if "transfer" in values else "-")
    return cells


def _row(run: dict[str, Any]) -> list[str]:
    gain = run["heldout"][-1]["gain"]["score"]
    interval = f"{gain['gain']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    values = _values(run)
    return [run["mask"], str(run["seed"]), "{:.3f} → {:.3f}".format(*values["score"]), interval, *_cells(values)]


def _mean_row(mask: str, runs: list[dict[str, Any]]) -> list[str]:
    each = [_values(run) for run in runs]
    means = {name: (fmean(v[name][0] for v in each), fmean(v[name][1] for v in each)) for name in each[0]}
    before, after = means["score"]
    return [
        f"**{mask}**",
        f"mean of {len(runs)}",
        f"{before:.3f} → {after:.3f}",
        f"{after - before:+.3f}",
        *_cells(means),
    ]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
