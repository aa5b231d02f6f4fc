"""Finished runs side by side, as a Markdown table: `python -m maskdpo_ray.report.comparison runs/a runs/b`.

Runs that share seed, model and questions and differ in the mask also share their first iteration's
answers, because rollouts are seeded; a line below the table says whether they do.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from maskdpo_ray import cli, stored_config
from maskdpo_ray.errors import RunFolderError, UserError

# Metric of the summary -> (heading, format); of the held-out questions but for the last one.
_METRICS = {
    "score": ("score", ".3f"),
    "correct_facts": ("correct facts", ".2f"),
    "incorrect_facts": ("incorrect facts", ".2f"),
    "sentences": ("sentences", ".2f"),
    "nothing_checkable": ("says nothing checkable", ".1%"),
    "cut_off": ("cut off", ".1%"),
    "transfer_score": ("transfer score", ".3f"),
}


@dataclass(frozen=True)
class FinishedRun:
    """What the table shows of one run folder."""

    mask: str
    seed: int
    metrics: dict[str, tuple[float, float]]
    """Name -> (before training, after the last iteration); without transfer_score when that wasn't evaluated."""
    gain: dict[str, float]
    """Of the score: gain, and low and high of its 95% interval."""
    pairs: str
    """Hash of the first iteration's pairs, whatever their order in the file."""

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Raises RunFolderError for a folder without the whole files of a finished run."""
        files = (folder / "summary.json", folder / "config.yaml", folder / "iter_000" / "pairs.jsonl")
        for file in files:
            if not file.is_file():
                raise RunFolderError(f"{file}: expected a file of a finished run, found none")
        summary, config, pairs = files
        try:
            return cls._from(
                json.loads(summary.read_text(encoding="utf-8"))["evaluations"],
                stored_config.read(config) or {},
                sorted(pairs.read_bytes().splitlines()),
            )
        except (ValueError, LookupError, TypeError) as error:
            raise RunFolderError(
                f"{folder}: expected the summary and config of a finished run, got {error!r}"
            ) from error

    @classmethod
    def _from(cls, evaluations: dict[str, Any], config: dict[str, Any], pairs: list[bytes]) -> FinishedRun:
        policy, eos = config["mask"]["policy"], config["mask"]["eos"]
        heldout = evaluations["heldout"]
        metrics = {name: _ends(heldout, name) for name in _METRICS if name != "transfer_score"}
        if "transfer" in evaluations:
            metrics["transfer_score"] = _ends(evaluations["transfer"], "score")
        return cls(
            mask=f"{policy if isinstance(policy, str) else 'custom'}, EOS {eos}",
            seed=config["run"]["seed"],
            metrics=metrics,
            gain=heldout[-1]["gain"]["score"],
            pairs=hashlib.sha256(b"\n".join(pairs)).hexdigest(),
        )


def table(runs: Sequence[FinishedRun]) -> list[str]:
    """Markdown lines: a row for each run, the mean of each mask, and whether a seed's runs had the same pairs."""
    headings = [heading for heading, _ in _METRICS.values()]
    lines = [_line(["mask", "seed", "gain [95% interval]", *headings]), "|---" * (3 + len(headings)) + "|"]
    masks = sorted({run.mask for run in runs})
    groups = [sorted((run for run in runs if run.mask == mask), key=lambda run: run.seed) for mask in masks]
    for run in (run for group in groups for run in group):
        interval = "{gain:+.3f} [{low:+.3f}, {high:+.3f}]".format(**run.gain)
        lines.append(_line([run.mask, str(run.seed), interval, *_cells([run])]))
    for group in groups:
        gain = f"{fmean(run.gain['gain'] for run in group):+.3f}"
        lines.append(_line([f"**{group[0].mask}**", f"mean of {len(group)}", gain, *_cells(group)]))
    lines.append("")
    for seed in sorted({run.seed for run in runs}):
        pairs = [run.pairs for run in runs if run.seed == seed]
        if len(pairs) > 1:
            verdict = "are the same in every run" if len(set(pairs)) == 1 else "DIFFER between runs"
            lines.append(f"seed {seed}: first-iteration pairs {verdict}")
    return lines


def main(folders: Sequence[str]) -> None:
    """Print the table of the runs in `folders`. Raises RunFolderError for a folder without a summary."""
    if not folders or folders[0].startswith("-"):
        raise RunFolderError("usage: python -m maskdpo_ray.report.comparison RUN_FOLDER [RUN_FOLDER ...]")
    print("\n".join(table([FinishedRun.read(Path(folder)) for folder in folders])))


def _ends(versions: Sequence[dict[str, Any]], metric: str) -> tuple[float, float]:
    return versions[0]["metrics"][metric]["mean"], versions[-1]["metrics"][metric]["mean"]


def _cells(runs: Sequence[FinishedRun]) -> list[str]:
    """Each metric before and after, means over `runs`; "-" where one of them lacks it."""
    cells = []
    for name, (_, form) in _METRICS.items():
        if any(name not in run.metrics for run in runs):
            cells.append("-")
            continue
        ends = zip(*(run.metrics[name] for run in runs), strict=True)
        cells.append(" → ".join(format(fmean(end), form) for end in ends))
    return cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
