"""Finished runs side by side, as a Markdown table: `python -m maskdpo_ray.report.comparison runs/a runs/b`.

Runs of one method differ in their seed alone, and only they are averaged; a method is named by the options in which the
runs differ. Runs with the same seed, model and questions and different masks have the same answers in their first
iteration, because rollouts are seeded; a line below the table says whether they do.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.file import flatten
from maskdpo_ray.config.schema import affects
from maskdpo_ray.errors import RunFolderError, UserError, printable, shown
from maskdpo_ray.evaluation.intervals import Change, Statistic
from maskdpo_ray.records import Decoded, encode_record, from_json
from maskdpo_ray.report.tables import number
from maskdpo_ray.store import files, fingerprint
from maskdpo_ray.store.ledger import read_entries
from maskdpo_ray.store.question_log import log_path, read_questions

METRICS = {
    "score": ("score", ".3f"),
    "recall": ("recall", ".3f"),
    "correct_facts": ("correct facts", ".2f"),
    "incorrect_facts": ("incorrect facts", ".2f"),
    "sentences": ("sentences", ".2f"),
    "nothing_checkable": ("says nothing checkable", ".1%"),
    "cut_off": ("cut off", ".1%"),
    "transfer_score": ("transfer score", ".3f"),
}
"""Metric of the held-out questions, but for the last -> (heading, format): a new column is one line."""


_NO_METHOD = ("run.seed", "data.transfer", "data.num_transfer_topics")
"""Options in which runs of one method may differ, beside those that affect no result."""


@dataclass(frozen=True)
class FinishedRun:
    """Figures of one run folder that the table shows."""

    method: dict[str, Any]
    """Dotted option -> value, of those that decide a run's results."""
    seed: int
    metrics: dict[str, tuple[float | None, float | None]]
    """Metric -> (before training, of the kept policy), None where not defined; transfer_score may be absent."""
    gain: Change
    """Change of the score."""
    pairs: str
    """Hash of the first iteration's pairs, whatever their order in the file."""
    folder: Path
    kept: int
    """Version of the kept policy."""

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Raises RunFolderError naming the file, and its field, that is not there or not whole."""
        read_entries(folder / "ledger.jsonl")  # refuses a folder of another version
        names = ("summary.json", "config.yaml", log_path(0))
        summary_file, config_file, log = wanted = [folder / name for name in names]
        for file in wanted:
            if not os.path.isfile(file):
                raise RunFolderError(f"{file}: expected a file of a finished run, found none")
        summary = _Values(summary_file, files.read_json(summary_file, Any))
        config = fingerprint.read_config(config_file) or {}
        given = flatten(config).items()
        metrics = {name: summary.ends("heldout", name) for name in METRICS if name != "transfer_score"}
        if "transfer" in summary.at("evaluations"):
            metrics["transfer_score"] = summary.ends("transfer", "score")
        pairs = sorted(encode_record(pair) for question in read_questions(log) for pair in question.preference_pairs())
        return cls(
            method={name: value for name, value in given if affects(name) and name not in _NO_METHOD},
            seed=fingerprint.config_field(config_file, config, "run.seed", int),
            metrics=metrics,
            gain=summary.gain(),
            pairs=hashlib.sha256(b"".join(pairs)).hexdigest(),
            folder=folder,
            kept=summary.kept(),
        )

    def evaluation(self, name: str, kind: type[Decoded], version: int | None = None) -> Decoded | None:
        """An evaluation ("heldout", "heldout-judged") of the kept policy, or of `version`; None where there is none.

        Raises RunFolderError when it is damaged.
        """
        file = self.folder / f"eval_{self.kept if version is None else version:03d}" / f"{name}.json"
        return files.read_json(file, kind) if file.is_file() else None


@dataclass(frozen=True)
class _Values:
    """JSON values of a file, and errors that name it."""

    file: Path
    values: Any

    def at(self, path: str) -> Any:
        """The value at the dotted `path`, in which a number is a place in a list. Raises RunFolderError."""
        value, names = self.values, path.split(".")
        for depth, name in enumerate(names):
            try:
                value = value[int(name) if isinstance(value, list) else name]
            except (LookupError, TypeError, ValueError):
                where = ".".join(names[:depth]) or "top level"
                raise RunFolderError(f"{self.file}: {where}: expected an entry {name}, got {shown(value)}") from None
        return value

    def record(self, kind: type[Decoded], path: str) -> Decoded:
        """The record of `kind` at `path`. Raises RunFolderError."""
        try:
            return from_json(kind, self.at(path))
        except ValueError as error:
            raise RunFolderError(f"{self.file}: {path}: {error}") from None

    def ends(self, split: str, metric: str) -> tuple[float | None, float | None]:
        """Means of a metric before training and of the kept policy. Raises RunFolderError."""
        places = (0, self.kept())
        first, last = (self.record(Statistic, f"evaluations.{split}.{i}.metrics.{metric}").mean for i in places)
        return first, last

    def gain(self) -> Change:
        """Change of the held-out score to the kept policy. Raises RunFolderError."""
        if (kept := self.kept()) == 0:
            score, _ = self.ends("heldout", "score")
            return Change(score, score, 0.0, 0.0, 0.0)
        return self.record(Change, f"evaluations.heldout.{kept}.gain.score")

    def kept(self) -> int:
        """Place of the kept policy among the evaluations: its version, as all policies are evaluated."""
        return self.record(int, "kept.version")


def table(runs: Sequence[FinishedRun]) -> list[str]:
    """Markdown lines: a row for each run, the mean of each method, and whether a seed's runs had the same pairs."""
    headings = ["method", "seed", "gain [95% interval]", *(heading for heading, _ in METRICS.values())]
    lines = [_line(headings), "|---" * len(headings) + "|"]
    names = _named_apart(runs)
    methods = {name: [run for run, own in zip(runs, names, strict=True) if own == name] for name in sorted(set(names))}
    groups = {name: sorted(group, key=lambda run: run.seed) for name, group in methods.items()}
    for name, run in ((name, run) for name, group in groups.items() for run in group):
        gain, low, high = (number(value, "+.3f", "-") for value in (run.gain.gain, run.gain.low, run.gain.high))
        lines.append(_line([name, str(run.seed), f"{gain} [{low}, {high}]", *_cells([run])]))
    for name, group in groups.items():
        gain = number(_mean([run.gain.gain for run in group]), "+.3f", "-")
        lines.append(_line([f"**{name}**", f"mean of {len(group)}", gain, *_cells(group)]))
    lines.append("")
    for seed in sorted({run.seed for run in runs}):
        pairs = [run.pairs for run in runs if run.seed == seed]
        if len(pairs) > 1:
            verdict = "are the same in every run" if len(set(pairs)) == 1 else "DIFFER between runs"
            lines.append(f"seed {seed}: first-iteration pairs {verdict}")
    return lines


def options_apart(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Option in which some of the runs differ -> its value in each of them, of those that decide results."""

    def value(run: FinishedRun, option: str) -> Any:
        return run.method.get(option, fingerprint.default(option))

    known = dict.fromkeys(option for run in runs for option in run.method)
    apart = [option for option in known if any(value(run, option) != value(runs[0], option) for run in runs)]
    return {option: [_text(value(run, option)) for run in runs] for option in apart}


def _named_apart(runs: Sequence[FinishedRun]) -> list[str]:
    """Name of each run's method: the options in which some of the runs differ, with its values."""
    apart = options_apart(runs)
    return [", ".join(f"{option} {apart[option][at]}" for option in apart) or "all alike" for at in range(len(runs))]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def main(folders: Sequence[str]) -> None:
    """Print the table of the runs in `folders`. Raises RunFolderError for a folder without a finished run."""
    if not folders or any(folder.startswith("-") for folder in folders):
        raise RunFolderError("usage: python -m maskdpo_ray.report.comparison RUN_FOLDER [RUN_FOLDER ...]")
    print("\n".join(map(printable, table([FinishedRun.read(Path(folder)) for folder in folders]))))


def _cells(runs: Sequence[FinishedRun]) -> list[str]:
    """Each metric before and after, means over `runs`; "-" where one of them lacks it."""
    cells = []
    for name, (_, form) in METRICS.items():
        if any(name not in run.metrics for run in runs):
            cells.append("-")
            continue
        ends = zip(*(run.metrics[name] for run in runs), strict=True)
        cells.append(" → ".join(number(_mean(end), form, "-") for end in ends))
    return cells


def rows_of_runs(runs: Sequence[FinishedRun]) -> list[list[str]]:
    """A row for each option in which the runs differ, the seed and each metric; a column for each run."""
    rows = [[option, *values] for option, values in options_apart(runs).items()]
    rows.append(["run.seed", *(str(run.seed) for run in runs)])
    columns = [_cells([run]) for run in runs]
    return rows + [[heading, *cells] for (heading, _), *cells in zip(METRICS.values(), *columns, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    """None when a value is not defined: a mean of the others would be of other runs."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
