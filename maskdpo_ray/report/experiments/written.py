"""An experiment's table as files: Markdown, CSV, JSON and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray.errors import printable
from maskdpo_ray.evaluation.across_seeds import AcrossSeeds
from maskdpo_ray.evaluation.choice import Choice
from maskdpo_ray.records import encode_line
from maskdpo_ray.report import plots
from maskdpo_ray.report.experiments.table import METRICS, Arm, Figure, Kind, Table, bounds
from maskdpo_ray.report.tables import markdown_rows, number
from maskdpo_ray.store import files

_PICTURES = ("score", "correct_facts", "incorrect_facts")


@dataclass(frozen=True)
class Section:
    """A paragraph and a table or list below it."""

    said: str
    header: list[str]
    """Headings of the columns; none of a list."""
    rows: list[list[str]]

    def markdown(self) -> str:
        """The section as Markdown."""
        if not self.header:
            return "\n".join([self.said, "", *(f"- {cell}" for (cell,) in self.rows)])
        return "\n".join([self.said, "", *markdown_rows(self.header, self.rows)])


def markdown(table: Table) -> str:
    """The table as Markdown."""
    parts = [f"# Experiment {table.experiment}", *sentences(table), *(each.markdown() for each in sections(table))]
    return "\n".join(map(printable, "\n\n".join(parts).split("\n"))) + "\n"


def sentences(table: Table) -> list[str]:
    """Sentences on the paper's claims."""
    return [direction.sentence for direction in table.directions]


def sections(table: Table) -> list[Section]:
    """All that the table has, but for its sentences."""
    found = [_means(table), _gains(table), _differences(table), *_kinds(table), _choices(table), _missing(table)]
    return [each for each in found if each.rows]


def _means(table: Table) -> Section:
    shown = [metric for metric in METRICS if any(metric in arm.figures or metric in arm.paper for arm in table.arms)]
    rows = []
    for arm in table.arms:
        cells = [_after(arm.figures.get(metric), METRICS[metric][1]) for metric in shown]
        kept = ", ".join(map(str, arm.kept))
        rows.append([_name(table, arm), f"{len(arm.seeds)} of {len(table.seeds)}", kept, *cells])
        if arm.paper_table is not None:
            cells = [number(arm.paper.get(metric), METRICS[metric][1]) for metric in shown]
            rows.append([f"{arm.arm} in {arm.paper_table}", "", "", *cells])
    said = (
        f"Means over seeds ({', '.join(map(str, table.seeds))}), before → after training, ± standard deviation over "
        f"the seeds; held-out topics: {table.topics}."
    )
    return Section(said, ["arm", "seeds", "kept policy", *(METRICS[metric][0] for metric in shown)], rows)


def _name(table: Table, arm: Arm) -> str:
    return f"{arm.arm} (baseline)" if arm.arm == table.baseline and len(table.arms) > 1 else arm.arm


def _gains(table: Table) -> Section:
    """Gains in scores over the start, of each seed too."""
    rows = []
    for arm in table.arms:
        for metric in (name for name in METRICS if name.endswith("score")):
            heading, form = METRICS[metric]
            figure = arm.figures.get(metric)
            if figure is None or figure.gain is None:
                continue
            gain = figure.gain
            each = [
                f"{number(gain.per_seed.get(seed), f'+{form}', '-')} {bounds(gain.of_each[seed], form)}"
                if seed in gain.of_each
                else "-"
                for seed in map(str, table.seeds)
            ]
            rows.append([arm.arm, heading, number(gain.mean, f"+{form}", "-"), *_over(gain, form), *each])
    said = f"Gains over the start, with 95% intervals by paired bootstrap ({table.bootstrap_samples} resamples)."
    seeds = [f"seed {seed}" for seed in table.seeds]
    return Section(said, ["arm", "metric", "gain", "over topics", "over topics and seeds", *seeds], rows)


def _differences(table: Table) -> Section:
    rows = [
        [arm.arm, METRICS[metric][0], *_difference(figure, METRICS[metric][1])]
        for arm in table.arms
        for metric, figure in arm.figures.items()
        if figure.difference is not None
    ]
    said = (
        f"Differences from {table.baseline}, with 95% intervals by paired bootstrap ({table.bootstrap_samples} "
        "resamples): over topics, the seeds being what they are, and over topics and seeds."
    )
    return Section(
        said, ["arm", "metric", "difference", "over topics", "over topics and seeds", "seeds", "paper"], rows
    )


def _kinds(table: Table) -> Iterator[Section]:
    """How often each kind of fact is stated, and stated correctly."""
    arms = [arm for arm in table.arms if arm.kinds]
    names = sorted({name for arm in arms for name in arm.kinds})
    sides = {
        "Facts of each kind that a held-out answer states, right or wrong, before → after training, and how many times "
        "as often, in the seed where that is least.": _stated,
        "Of these the right ones.": _right,
    }
    for said, cell in sides.items():
        rows = [[arm.arm, *(cell(arm.kinds[name]) if name in arm.kinds else "-" for name in names)] for arm in arms]
        yield Section(said, ["arm", *names], rows)


def _stated(kind: Kind) -> str:
    return f"{kind.stated_before:.2f} → {kind.stated_after:.2f} ({number(kind.least, '.2f', '-')})"


def _right(kind: Kind) -> str:
    return f"{kind.correct_before:.2f} → {kind.correct_after:.2f}"


def _choices(table: Table) -> Section:
    """Choices among policies by the development topics."""
    chosen = [(arm.arm, seed, choice) for arm in table.arms for seed, choice in arm.choices.items()]
    versions = range(max((len(choice.candidates) for _, _, choice in chosen), default=0))
    rows = [[arm, seed, *(_candidate(choice, version) for version in versions)] for arm, seed, choice in chosen]
    said = (
        "Choice on development topics: score, recall (or facts told) and, in brackets, their harmonic mean, of each "
        "policy."
    )
    return Section(said, ["arm", "seed", *(f"policy {version}" for version in versions)], rows)


def _candidate(choice: Choice, version: int) -> str:
    if version >= len(choice.candidates):
        return ""
    found = choice.candidates[version]
    told = f"{number(found.score, '.3f', '-')}, {number(found.told, '.3f', '-')} ({found.balance:.3f})"
    told += f", fell: {', '.join(found.fell)}" if found.fell else ""
    told += f", stated too seldom: {', '.join(found.rarer)}" if found.rarer else ""
    return f"{told}, kept" if version == choice.version else told


def _missing(table: Table) -> Section:
    rows = [[f"{arm.arm}, seed {seed}: {why}"] for arm in table.arms for seed, why in arm.missing.items()]
    return Section("Missing:", [], rows)


def _after(figure: Figure | None, form: str) -> str:
    if figure is None:
        return "-"
    sd = "" if figure.after.sd is None else f" ± {number(figure.after.sd, form)}"
    return f"{number(figure.before, form, '-')} → {number(figure.after.mean, form, '-')}{sd}"


def _difference(figure: Figure, form: str) -> list[str]:
    found = figure.difference
    assert found is not None
    seeds, paper = ", ".join(found.per_seed), number(figure.paper_difference, f"+{form}", "")
    return [number(found.mean, f"+{form}", "-"), *_over(found, form), seeds, paper]


def _over(across: AcrossSeeds, form: str) -> list[str]:
    both = (across.over_topics, across.over_topics_and_seeds)
    return ["-" if interval.low is None else bounds(interval, form) for interval in both]


_COLUMNS = (
    *("arm", "metric", "figure", "seeds", "value", "sd"),
    *("low_topics", "high_topics", "low_topics_seeds", "high_topics_seeds", "paper"),
)


def as_csv(table: Table) -> str:
    """The table as CSV: a line for each figure, "before", "after", "gain" (over the start) or "difference" (from the
    baseline).
    """
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for arm in table.arms:
        for metric, figure in arm.figures.items():
            nothing = [None] * 5
            lines.writerow([arm.arm, metric, "before", " ".join(figure.after.per_seed), figure.before, *nothing, None])
            paper = arm.paper.get(metric)
            sides = {
                "after": (figure.after, paper),
                "gain": (figure.gain, None),
                "difference": (figure.difference, figure.paper_difference),
            }
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
    """Name of a file -> picture: arms, gains of each seed, differences from the baseline; intervals over topics."""
    found = {}
    gains = {arm.arm: arm.figures["score"].gain for arm in table.arms if "score" in arm.figures}
    each = {
        f"{arm}, seed {seed}": (gain.per_seed[seed], interval.low, interval.high)
        for arm, gain in gains.items()
        if gain is not None
        for seed, interval in gain.of_each.items()
    }
    known = {name: (value, low, high) for name, (value, low, high) in each.items() if value is not None}
    if known:
        found["gain"] = plots.intervals(f"{table.experiment}: gain in score over the start", known, "gain in score")
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
