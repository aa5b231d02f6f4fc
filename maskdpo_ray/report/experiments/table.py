"""The table of an experiment: means over seeds, differences from the baseline with intervals, the paper's rows beside
them, and whether the paper's direction holds. Written as Markdown, CSV, JSON and pictures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from maskdpo_ray.config.experiment import Experiment, PaperRow
from maskdpo_ray.errors import RunFolderError, printable
from maskdpo_ray.evaluation.across_seeds import AcrossSeeds, Comparison, Interval
from maskdpo_ray.evaluation.judged_metrics import JudgedEvaluation
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import Record, encode_line
from maskdpo_ray.report import plots
from maskdpo_ray.report.comparison import METRICS as OF_RUNS
from maskdpo_ray.report.comparison import FinishedRun
from maskdpo_ray.report.tables import number
from maskdpo_ray.store import files

METRICS = {**OF_RUNS, "second_score": ("score by the second evaluator", ".3f")}
"""Metric -> (heading, format)."""
_PLACES = {"transfer_score": ("transfer", "score"), "second_score": ("heldout-judged", "score")}
"""Metric -> (evaluation, its name there); all others are of the held-out questions by the annotator."""
_SEED = 1
"""Seed of the bootstrap, whatever the runs' seeds."""
_PICTURES = ("score", "correct_facts", "incorrect_facts")


class Figure(Record):
    """A metric of an arm."""

    before: float | None
    """Before training, mean over the seeds."""
    after: AcrossSeeds
    """Metric of the kept policies."""
    difference: AcrossSeeds | None
    """From the baseline, over the seeds that both have; None of the baseline, and where it has no such figure."""
    paper_difference: float | None
    """The paper's difference from its baseline."""


class Arm(Record):
    """A row of the table."""

    arm: str
    seeds: tuple[int, ...]
    """Seeds whose runs are finished."""
    kept: tuple[int, ...]
    """Version of the kept policy, of each."""
    missing: dict[str, str]
    """Seed, as text, of a run that isn't finished -> why."""
    paper_table: str | None
    paper: dict[str, float]
    """Metric -> the paper's."""
    figures: dict[str, Figure]
    """Metric -> figure."""


class Direction(Record):
    """The paper's claim, and ours."""

    above: str
    below: str
    metric: str
    difference: AcrossSeeds | None
    """The one minus the other; None without runs of both."""
    holds: bool | None
    """Whether the mean difference is above 0; None where there is none."""
    sentence: str


class Table(Record):
    """All that an experiment found."""

    experiment: str
    baseline: str
    seeds: tuple[int, ...]
    topics: int
    """Held-out topics that all runs have; 0 without runs."""
    bootstrap_samples: int
    arms: tuple[Arm, ...]
    direction: Direction | None


def build(experiment: Experiment, runs: Mapping[str, FinishedRun], missing: Mapping[str, str]) -> Table:
    """The table of the finished runs.

    Args:
        runs: name of a run -> run.
        missing: name of a run that is not finished -> why.

    Raises RunFolderError when a run is damaged, or two were not evaluated on the same topics by the same judges.
    """
    by_arm = {
        arm: {run.seed: runs[run.name] for run in experiment.runs if run.arm == arm and run.name in runs}
        for arm in experiment.arms
    }
    samples = experiment.runs[0].config.eval.bootstrap_samples
    names = list(dict.fromkeys(_place(metric)[0] for metric in METRICS))
    comparisons = {name: _comparison(experiment, by_arm, name, samples) for name in names}
    arms = tuple(_arm(experiment, arm, by_arm[arm], missing, comparisons) for arm in experiment.arms)
    return Table(
        experiment.name,
        experiment.baseline,
        experiment.seeds,
        comparisons["heldout"].topics,
        samples,
        arms,
        _direction(experiment, comparisons),
    )


def _place(metric: str) -> tuple[str, str]:
    return _PLACES.get(metric, ("heldout", metric))


def _read(run: FinishedRun, name: str, version: int | None = None) -> Evaluation | JudgedEvaluation | None:
    if name.endswith("-judged"):
        return run.evaluation(name, JudgedEvaluation, version)
    return run.evaluation(name, Evaluation, version)


def _comparison(
    experiment: Experiment, by_arm: Mapping[str, Mapping[int, FinishedRun]], name: str, samples: int
) -> Comparison:
    """Compare the arms that have this evaluation in each of their runs."""
    found = {}
    for arm, runs in by_arm.items():
        read = {seed: _read(run, name) for seed, run in runs.items()}
        whole = {seed: each for seed, each in read.items() if each is not None}
        if whole and len(whole) == len(read):
            found[arm] = whole
    try:
        return Comparison.of(found, seed=_SEED, bootstrap_samples=samples)
    except ValueError as error:
        raise RunFolderError(f"{experiment.folder}: {name}: {error}") from error


def _arm(
    experiment: Experiment,
    arm: str,
    runs: Mapping[int, FinishedRun],
    missing: Mapping[str, str],
    comparisons: Mapping[str, Comparison],
) -> Arm:
    baseline, row = experiment.baseline, experiment.paper.get(arm)
    figures = {}
    for metric in METRICS:
        place, name = _place(metric)
        comparison = comparisons[place]
        if arm not in comparison.draws or name not in _names(comparison, arm):
            continue
        is_compared = arm != baseline and baseline in comparison.draws
        difference = comparison.difference(arm, baseline, name) if is_compared else None
        after = comparison.mean(arm, name)
        starts = [_read(run, place, 0) for run in runs.values()]
        before = [each.metrics[name].mean for each in starts if each is not None]
        figures[metric] = Figure(
            _mean(before),
            after,
            difference if difference is None or difference.per_seed else None,
            _less(_of_paper(row, metric), _of_paper(experiment.paper.get(baseline), metric)) if is_compared else None,
        )
    lacking = {str(run.seed): missing[run.name] for run in experiment.runs if run.arm == arm and run.name in missing}
    kept = tuple(run.kept for run in runs.values())
    source, paper = (row.table, row.figures) if row else (None, {})
    return Arm(arm, tuple(runs), kept, lacking, source, paper, figures)


def _names(comparison: Comparison, arm: str) -> set[str]:
    """Metrics that some seed of an arm defines."""
    draws = comparison.draws[arm].values()
    return {name for each in draws for name, value in each.values.items() if value is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _of_paper(row: PaperRow | None, metric: str) -> float | None:
    return None if row is None else row.figures.get(metric)


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _direction(experiment: Experiment, comparisons: Mapping[str, Comparison]) -> Direction | None:
    claim = experiment.direction
    if claim is None:
        return None
    place, name = _place(claim.metric)
    comparison, sides = comparisons[place], (claim.above, claim.below)
    lacking = [arm for arm in sides if arm not in comparison.draws]
    difference = None if lacking else comparison.difference(claim.above, claim.below, name)
    heading, form = METRICS[claim.metric]
    rows = [experiment.paper.get(arm) for arm in sides]
    theirs = [_of_paper(row, claim.metric) for row in rows]
    said = f"The paper has {claim.above} above {claim.below} by {heading}"
    if rows[0] is not None and None not in theirs:
        said += f" ({' and '.join(number(value, form) for value in theirs)}; {rows[0].table})"
    if difference is None or difference.mean is None:
        why = f"no finished run of {' and '.join(lacking)}" if lacking else "no seed that both have finished"
        return Direction(*sides, claim.metric, difference, None, f"{said}. Here there is {why}: nothing can be said.")
    count = len(difference.per_seed)
    interval = difference.over_topics_and_seeds if count > 1 else difference.over_topics
    over = f"over {comparison.topics} topics" + (f" and {count} seeds" if count > 1 else ", one seed")
    if difference.mean <= 0:
        verdict = "the direction does not hold" + (", and the interval excludes 0" if interval.excludes_0 else "")
    elif interval.excludes_0:
        verdict = "the direction holds, and the interval excludes 0"
    else:
        verdict = "the direction holds for the mean, but the interval contains 0: it may be chance"
    ours = f"{number(difference.mean, f'+{form}')} {_bounds(interval, form)} {over}"
    holds = difference.mean > 0
    return Direction(*sides, claim.metric, difference, holds, f"{said}. Here the difference is {ours}: {verdict}.")


def _bounds(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return "[no interval]"
    return f"[{number(interval.low, f'+{form}')}, {number(interval.high, f'+{form}')}]"


def markdown(table: Table) -> str:
    """The table as Markdown."""
    arms = [arm for arm in table.arms if arm.figures]
    shown = [metric for metric in METRICS if any(metric in arm.figures or metric in arm.paper for arm in table.arms)]
    lines = [f"# Experiment {table.experiment}", ""]
    if table.direction is not None:
        lines += [table.direction.sentence, ""]
    seeds = ", ".join(map(str, table.seeds))
    lines += [
        f"Means over seeds ({seeds}), before → after training, ± standard deviation over the seeds; held-out topics: "
        f"{table.topics}.",
        "",
        _row(["arm", "seeds", "kept policy", *(METRICS[metric][0] for metric in shown)]),
        _rule(3 + len(shown)),
    ]
    for arm in table.arms:
        name = f"{arm.arm} (baseline)" if arm.arm == table.baseline else arm.arm
        cells = [_after(arm.figures.get(metric), METRICS[metric][1]) for metric in shown]
        lines.append(_row([name, f"{len(arm.seeds)} of {len(table.seeds)}", ", ".join(map(str, arm.kept)), *cells]))
        if arm.paper_table is not None:
            cells = [number(arm.paper.get(metric), METRICS[metric][1]) for metric in shown]
            lines.append(_row([f"{arm.arm} in {arm.paper_table}", "", "", *cells]))
    differences = [
        _row([arm.arm, METRICS[metric][0], *_difference(figure, METRICS[metric][1])])
        for arm in arms
        for metric, figure in arm.figures.items()
        if figure.difference is not None
    ]
    if differences:
        lines += [
            "",
            f"Differences from {table.baseline}, with 95% intervals by paired bootstrap ({table.bootstrap_samples} "
            "resamples): over topics, the seeds being what they are, and over topics and seeds.",
            "",
            _row(["arm", "metric", "difference", "over topics", "over topics and seeds", "seeds", "paper"]),
            _rule(7),
            *differences,
        ]
    missing = [f"- {arm.arm}, seed {seed}: {why}" for arm in table.arms for seed, why in arm.missing.items()]
    if missing:
        lines += ["", "Missing:", "", *missing]
    return "\n".join(map(printable, lines)) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _rule(count: int) -> str:
    return "|---" * count + "|"


def _after(figure: Figure | None, form: str) -> str:
    if figure is None:
        return "-"
    sd = "" if figure.after.sd is None else f" ± {number(figure.after.sd, form)}"
    return f"{number(figure.before, form, '-')} → {number(figure.after.mean, form, '-')}{sd}"


def _difference(figure: Figure, form: str) -> list[str]:
    found = figure.difference
    assert found is not None
    over = [
        "-" if interval.low is None else _bounds(interval, form)
        for interval in (found.over_topics, found.over_topics_and_seeds)
    ]
    seeds = ", ".join(found.per_seed)
    return [number(found.mean, f"+{form}", "-"), *over, seeds, number(figure.paper_difference, f"+{form}", "")]


_COLUMNS = (
    *("arm", "metric", "figure", "seeds", "value", "sd"),
    *("low_topics", "high_topics", "low_topics_seeds", "high_topics_seeds", "paper"),
)


def as_csv(table: Table) -> str:
    """The table as CSV: a line for each figure, "before", "after" or "difference" from the baseline."""
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for arm in table.arms:
        for metric, figure in arm.figures.items():
            nothing = [None] * 5
            lines.writerow([arm.arm, metric, "before", " ".join(figure.after.per_seed), figure.before, *nothing, None])
            paper = arm.paper.get(metric)
            sides = {"after": (figure.after, paper), "difference": (figure.difference, figure.paper_difference)}
            for name, (across, paper) in sides.items():
                if across is not None:
                    ends = [
                        end
                        for each in (across.over_topics, across.over_topics_and_seeds)
                        for end in (each.low, each.high)
                    ]
                    seeds = " ".join(across.per_seed)
                    lines.writerow([arm.arm, metric, name, seeds, across.mean, across.sd, *ends, paper])
    return written.getvalue()


def pictures(table: Table) -> dict[str, plots.Plot]:
    """Name of a file -> picture: arms, and differences from the baseline, with intervals over topics."""
    found = {}
    for metric in _PICTURES:
        heading = METRICS[metric][0]
        figures = {arm.arm: arm.figures[metric] for arm in table.arms if metric in arm.figures}
        after = {arm: _point(figure.after) for arm, figure in figures.items()}
        apart = {arm: _point(figure.difference) for arm, figure in figures.items() if figure.difference is not None}
        for name, rows, label in (
            (metric, after, heading),
            (f"{metric}-difference", apart, f"{heading}, less {table.baseline}"),
        ):
            known = {arm: (value, low, high) for arm, (value, low, high) in rows.items() if value is not None}
            if known:
                found[name] = plots.intervals(f"{table.experiment}: {label}", known, label)
    return found


def _point(across: AcrossSeeds) -> tuple[float | None, float | None, float | None]:
    return across.mean, across.over_topics.low, across.over_topics.high


def write(table: Table, folder: Path) -> None:
    """Write table.md, table.csv, table.json and the pictures. Raises RunFolderError when they can't be written."""
    files.write_whole(folder / "table.json", encode_line(table))
    files.write_whole(folder / "table.csv", as_csv(table).encode())
    files.write_whole(folder / "table.md", markdown(table).encode())
    for name, plot in pictures(table).items():
        files.write_whole(folder / f"{name}.png", plot.png())
        files.write_whole(folder / f"{name}.svg", plot.svg_file())
