"""The table of an experiment: means over seeds, differences from the baseline and gains over the start with intervals,
the paper's rows beside them, kinds of fact, and whether the paper's direction holds. `written` makes files of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from maskdpo_ray.config.experiment import Direction as Claim
from maskdpo_ray.config.experiment import Experiment, PaperRow
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation.across_seeds import AcrossSeeds, Comparison, Interval
from maskdpo_ray.evaluation.choice import Choice
from maskdpo_ray.evaluation.intervals import Measured
from maskdpo_ray.evaluation.judged_metrics import JudgedEvaluation
from maskdpo_ray.evaluation.metrics import Evaluation, KindOfFact
from maskdpo_ray.records import Record
from maskdpo_ray.report.comparison import METRICS as OF_RUNS
from maskdpo_ray.report.comparison import FinishedRun
from maskdpo_ray.report.summary import newest_choice
from maskdpo_ray.report.tables import number

METRICS = {
    **OF_RUNS,
    "second_score": ("score by the second evaluator", ".3f"),
    "nats_per_token": ("nats per token under another model", ".3f"),
}
"""Metric -> (heading, format)."""
_PLACES = {
    "transfer_score": ("transfer", "score"),
    "second_score": ("heldout-judged", "score"),
    "nats_per_token": ("heldout-judged", "nats_per_token"),
}
"""Metric -> (evaluation, its name there); all others are of the held-out questions by the annotator."""
_SEED = 1
"""Seed of the bootstrap, whatever the runs' seeds."""


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
    gain: AcrossSeeds | None = None
    """From before training to after; None without evaluations of the start."""


class Kind(Record):
    """Facts of a kind ("capital") per held-out answer, by the annotator, means over the seeds."""

    stated_before: float
    stated_after: float
    """Right or wrong."""
    correct_before: float
    correct_after: float
    least: float | None
    """Stated after / stated before, in the seed where that is least; None where a seed's answers began without."""


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
    kinds: dict[str, Kind] = {}
    """Kind of fact, or "other" -> how often it is stated."""
    choices: dict[str, Choice] = {}
    """Seed, as text -> the choice among a run's policies by the development topics, where there are such."""


class Direction(Record):
    """A claim of the paper, and ours."""

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
    directions: tuple[Direction, ...]


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
        tuple(_direction(experiment, claim, comparisons) for claim in experiment.directions),
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
    return _compare(experiment, name, found, samples)


def _compare(
    experiment: Experiment, name: str, found: Mapping[str, Mapping[int, Measured]], samples: int
) -> Comparison:
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
    gains = {place: _gains(experiment, runs, place, each) for place, each in comparisons.items()}
    for metric in METRICS:
        place, name = _place(metric)
        comparison = comparisons[place]
        if arm not in comparison.draws or name not in _names(comparison, arm):
            continue
        is_compared = arm != baseline and baseline in comparison.draws
        difference = comparison.difference(arm, baseline, name) if is_compared else None
        after = comparison.mean(arm, name)
        gained = gains[place]
        figures[metric] = Figure(
            gained.mean("before", name).mean if gained else None,
            after,
            difference if difference is None or difference.per_seed else None,
            _less(_of_paper(row, metric), _of_paper(experiment.paper.get(baseline), metric)) if is_compared else None,
            gained.difference("after", "before", name) if gained else None,
        )
    lacking = {str(run.seed): missing[run.name] for run in experiment.runs if run.arm == arm and run.name in missing}
    kept = tuple(run.kept for run in runs.values())
    source, paper = (row.table, row.figures) if row else (None, {})
    choices = {
        str(seed): choice for seed, run in runs.items() if (choice := newest_choice(run.folder)) and choice.candidates
    }
    return Arm(arm, tuple(runs), kept, lacking, source, paper, figures, _kinds(runs.values()), choices)


def _gains(experiment: Experiment, runs: Mapping[int, FinishedRun], place: str, among: Comparison) -> Comparison | None:
    """Compare an arm's kept policies with their starts; None where a run lacks one of the two evaluations."""
    sides = {
        name: {seed: each for seed, run in runs.items() if (each := _read(run, place, version)) is not None}
        for name, version in (("before", 0), ("after", None))
    }
    if not runs or any(len(each) < len(runs) for each in sides.values()):
        return None
    return _compare(experiment, place, sides, among.samples)


def _kinds(runs: Iterable[FinishedRun]) -> dict[str, Kind]:
    """Kinds of fact in the held-out answers of all runs."""
    sides = [
        (before.kinds, after.kinds)
        for run in runs
        if (before := run.evaluation("heldout", Evaluation, 0)) and (after := run.evaluation("heldout", Evaluation))
    ]
    found = {}
    for name in sorted({name for side in sides for kinds in side for name in kinds}):
        nothing = KindOfFact(0.0, 0.0)
        facts = [[kinds.get(name, nothing) for kinds in side] for side in sides]
        stated = [[each.stated for each in side] for side in facts]
        before, after = (sum(side) / len(sides) for side in zip(*stated, strict=True))
        right, then = (sum(each.correct for each in side) / len(sides) for side in zip(*facts, strict=True))
        least = min(side[1] / side[0] for side in stated) if all(side[0] for side in stated) else None
        found[name] = Kind(before, after, right, then, least)
    return found


def _names(comparison: Comparison, arm: str) -> set[str]:
    """Metrics that some seed of an arm defines."""
    draws = comparison.draws[arm].values()
    return {name for each in draws for name, value in each.values.items() if value is not None}


def _of_paper(row: PaperRow | None, metric: str) -> float | None:
    return None if row is None else row.figures.get(metric)


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _direction(experiment: Experiment, claim: Claim, comparisons: Mapping[str, Comparison]) -> Direction:
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
    ours = f"{number(difference.mean, f'+{form}')} {bounds(interval, form)} {over}"
    holds = difference.mean > 0
    return Direction(*sides, claim.metric, difference, holds, f"{said}. Here the difference is {ours}: {verdict}.")


def bounds(interval: Interval, form: str) -> str:
    """An interval in brackets."""
    if interval.low is None or interval.high is None:
        return "[no interval]"
    return f"[{number(interval.low, f'+{form}')}, {number(interval.high, f'+{form}')}]"
