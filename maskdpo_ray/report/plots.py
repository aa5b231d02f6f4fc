"""Pictures of a run's figures, drawn by matplotlib: SVG for the page, PNG for trackers and files.

matplotlib, since it needs no script in the page and draws files as well; plotly.js alone is as large as a page may be.
Colours of the SVG are variables of the page's style sheet, so that a picture follows its light or dark theme.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLORS = {
    "ink": "#1b1f24",
    "muted": "#5b6470",
    "grid": "#d7dce2",
    "one": "#2462b0",
    "two": "#b3541e",
    "three": "#2f7d4f",
    "four": "#7a4fa3",
    "five": "#a8323e",
    "six": "#6b6a1f",
}
"""Variable of the style sheet -> its value on a light ground; a picture uses no colour but these."""
SERIES = ("one", "two", "three", "four", "five", "six")
MOST_POINTS = 400
"""Points of a curve; of more, each is the mean of its neighbours."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "maskdpo_ray",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.prop_cycle": cycler(color=[COLORS[name] for name in SERIES]),
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.8,
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}


_drawing = threading.RLock()


@contextmanager
def _style() -> Iterator[None]:
    """The style of all pictures, in one thread at a time: it is the process's, and trackers draw in theirs."""
    with _drawing, rc_context(_STYLE):
        yield


@dataclass(frozen=True)
class Plot:
    """A picture with its heading, and what it shows in words."""

    title: str
    text: str
    """Words for what one reads from it, for those who can't see it."""
    figure: Figure

    @property
    def is_wide(self) -> bool:
        """Whether it takes more room than one of several side by side."""
        return bool(self.figure.get_figwidth() > 4)

    def svg(self) -> str:
        """An `<svg>` element to be put into a page, without ids that another one of the page could have."""
        with _style():
            written = io.StringIO()
            self.figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inlined(written.getvalue(), "p" + hashlib.sha256(written.getvalue().encode()).hexdigest()[:8])

    def svg_file(self) -> bytes:
        """The picture on white as an SVG file of its own."""
        with _style():
            written = io.BytesIO()
            self.figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        return written.getvalue()

    def png(self) -> bytes:
        """The picture on white."""
        with _style():
            written = io.BytesIO()
            self.figure.savefig(written, format="png", dpi=144, metadata={"Software": None})
        return written.getvalue()


def _inlined(svg: str, name: str) -> str:
    """The element of an SVG file, its colours as variables and its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\1#{name}-", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)  # the page's own
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would be the whole page's
    svg = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", svg)
    for variable, color in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    # A width of its own would keep it from shrinking with the page.
    svg = re.sub(r'^(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", svg)
    svg = re.sub(r'^(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", svg)
    svg = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    return re.sub(r"\n\s*", "\n", svg).strip()


def _panel(width: float = 3.6, height: float = 2.5) -> tuple[Figure, Axes]:
    """A figure with one panel; inches of 72 points."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@dataclass(frozen=True)
class Curve:
    """A line of a picture; a value of None leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    """Ends of the intervals, one for each value."""


def curves(
    title: str,
    lines: Sequence[Curve],
    x_label: str,
    *,
    whole_x: bool = False,
    ring: float | None = None,
    marks: Sequence[float] = (),
) -> Plot:
    """Lines over one axis.

    Args:
        whole_x: x counts something, such as policies, and each point is marked.
        ring: x of the point of the first line that a ring marks.
        marks: x of dashed lines.
    """
    with _style():
        figure, axes = _panel()
        for line, color in zip(lines, _cycle(len(lines)), strict=True):
            x, y = _thinned(line.x, line.y)
            axes.plot(x, y, color=COLORS[color], label=line.name, marker="o" if whole_x else None)
            if line.low is not None and line.high is not None and whole_x:
                values = np.array([line.y, line.low, line.high], dtype=float)
                errors = np.abs(values[1:] - values[0])
                axes.errorbar(line.x, values[0], yerr=errors, fmt="none", ecolor=COLORS[color], capsize=3, elinewidth=1)
        if ring is not None and ring in lines[0].x:
            at = np.array(lines[0].y, dtype=float)[list(lines[0].x).index(ring)]
            axes.plot([ring], [at], "o", markersize=12, markerfacecolor="none", color=COLORS["ink"])
        for mark in marks:
            axes.axvline(mark, color=COLORS["muted"], linestyle="--", linewidth=1)
        if whole_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.margins(x=0.12)
        axes.set_xlabel(x_label)
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=2)
    return Plot(title, "; ".join(f"{line.name}: {_ends(line)}" for line in lines), figure)


def intervals(title: str, rows: Mapping[str, tuple[float, float | None, float | None]], x_label: str) -> Plot:
    """A point for each row with its interval, and a line at 0 where that is among the values.

    Args:
        rows: name -> (value, low, high); without an interval the point alone.
    """
    with _style():
        figure, axes = _panel(5.0, 0.8 + 0.35 * len(rows))
        for place, ((value, low, high), color) in enumerate(zip(rows.values(), _cycle(len(rows)), strict=True)):
            axes.plot([value], [place], "o", color=COLORS[color])
            if low is not None and high is not None:
                axes.hlines(place, low, high, color=COLORS[color], linewidth=2)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        if axes.get_xlim()[0] < 0 < axes.get_xlim()[1]:
            axes.axvline(0, color=COLORS["muted"], linewidth=1)
        axes.set_xlabel(x_label)
    words = [
        f"{name}: {value:.3g}" + ("" if low is None or high is None else f" (from {low:.3g} to {high:.3g})")
        for name, (value, low, high) in rows.items()
    ]
    return Plot(title, "; ".join(words), figure)


def _cycle(count: int) -> list[str]:
    return [SERIES[index % len(SERIES)] for index in range(count)]


def _ends(line: Curve) -> str:
    known = [value for value in line.y if value is not None]
    if not known:
        return "no values"
    return f"{known[0]:.3g}" if len(known) == 1 else f"from {known[0]:.3g} to {known[-1]:.3g}"


def _thinned(x: Sequence[float], y: Sequence[float | None]) -> tuple[Any, Any]:
    """At most `MOST_POINTS` points, each the mean of its neighbours."""
    places, values = np.array(x, dtype=float), np.array(y, dtype=float)
    if len(places) <= MOST_POINTS:
        return places, values
    parts = np.array_split(np.arange(len(places)), MOST_POINTS)
    known = [part[np.isfinite(values[part])] for part in parts]
    kept = [part for part in known if len(part)]
    return np.array([places[part].mean() for part in kept]), np.array([values[part].mean() for part in kept])


def stacked(title: str, rows: Mapping[str, Mapping[str, float]], x_label: str) -> Plot:
    """A horizontal bar for each row, made of its parts in their order; parts of a name have one colour."""
    parts = list(dict.fromkeys(name for row in rows.values() for name in row))
    with _style():
        figure, axes = _panel(5.0, 1.1 + 0.3 * len(rows) + 0.18 * (len(parts) // 3))
        start = np.zeros(len(rows))
        hatches = ("", "///", "...", "xxx", "\\\\\\", "++")
        for index, part in enumerate(parts):
            size = np.array([float(row.get(part, 0)) for row in rows.values()])
            color, hatch = COLORS[SERIES[index % len(SERIES)]], hatches[index // len(SERIES) % len(hatches)]
            axes.barh(list(rows), size, left=start, label=part, color=color, height=0.6, hatch=hatch)
            start += size
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x_label)
        figure.legend(loc="outside upper left", ncols=3)
    words = "; ".join(f"{name}: " + ", ".join(f"{part} {row[part]:g}" for part in row) for name, row in rows.items())
    return Plot(title, words, figure)


@dataclass(frozen=True)
class Span:
    """A bar of a timeline."""

    row: str
    start: float
    """Seconds after the start."""
    seconds: float


def timeline(title: str, spans: Sequence[Span]) -> Plot:
    """A row of bars for each kind of work, in minutes or hours after the start."""
    rows = list(dict.fromkeys(span.row for span in spans))
    end = max((span.start + span.seconds for span in spans), default=1.0)
    unit, seconds = ("hours", 3600.0) if end > 3 * 3600 else ("minutes", 60.0) if end > 180 else ("seconds", 1.0)
    with _style():
        figure, axes = _panel(5.0, 0.8 + 0.3 * len(rows))
        for index, row in enumerate(rows):
            bars = [(span.start / seconds, max(span.seconds, end / 600) / seconds) for span in spans if span.row == row]
            axes.broken_barh(bars, (index - 0.35, 0.7), color=COLORS[SERIES[index % len(SERIES)]])
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, end / seconds)
        axes.set_xlabel(f"{unit} of work")
    totals = {row: sum(span.seconds for span in spans if span.row == row) for row in rows}
    return Plot(title, "; ".join(f"{row}: {total:.0f} s" for row, total in totals.items()), figure)


def histogram(title: str, counts: Mapping[str, Sequence[float]], edges: Sequence[float], x_label: str) -> Plot:
    """Counts of each series in the bins between `edges`, one more than there are counts."""
    with _style():
        figure, axes = _panel()
        for (name, values), color in zip(counts.items(), _cycle(len(counts)), strict=True):
            axes.stairs(values, edges, label=name, color=COLORS[color], linewidth=2)
        axes.set_xlabel(x_label)
        if len(counts) > 1:
            figure.legend(loc="outside upper left", ncols=3)
    words = "; ".join(f"{name}: {sum(values):g} in {len(values)} bins" for name, values in counts.items())
    return Plot(title, words, figure)


def columns(title: str, panels: Mapping[str, Mapping[str, Sequence[float]]], x_label: str, y_label: str) -> Plot:
    """Panels side by side on one scale, each of columns made of their parts; columns divide 0 to 1 evenly.

    Args:
        panels: heading -> part -> its size in each column.
    """
    with _style():
        figure = Figure(figsize=(0.6 + 3 * len(panels), 2.7), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (heading, parts) in zip(grid, panels.items(), strict=True):
            for index, (part, sizes) in enumerate(parts.items()):
                below = np.sum([list(each) for each in list(parts.values())[:index]], axis=0) if index else 0.0
                edges = np.linspace(0, 1, len(sizes) + 1)
                width, color = 1 / len(sizes), COLORS[SERIES[index % len(SERIES)]]
                axes.bar(edges[:-1], list(sizes), 0.9 * width, below, align="edge", label=part, color=color)
            axes.set_title(heading, fontsize=10, color=COLORS["muted"])
            axes.set_xlabel(x_label)
            axes.grid(axis="x", visible=False)
        grid[0].set_ylabel(y_label)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    words = [
        f"{heading}: "
        + ", ".join(f"{part} {' '.join(f'{size:.3f}' for size in sizes)}" for part, sizes in parts.items())
        for heading, parts in panels.items()
    ]
    return Plot(title, "; ".join(words), figure)
