"""View of a run's progress for a terminal of 80 columns or more: what `python -m maskdpo_ray.watch` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from maskdpo_ray.errors import printable
from maskdpo_ray.records import EVALUATE
from maskdpo_ray.report.progress import FAILED, FINISHED, RUNNING, STOPPED, UNSEEN, Progress, SeenPair, StageProgress

CURVES = {
    "eval/heldout/score": "held-out score",
    "eval/heldout/recall": "held-out recall",
    "eval/heldout-judged/score": "second evaluator",
    "eval/transfer/score": "transfer score",
    "eval/dev/score": "development score",
    "train/loss": "loss",
    "train/margin": "reward margin",
    "train/accuracy": "accuracy",
    "train/grad_norm": "gradient norm",
}
"""Curve of a `Progress` -> what the view calls it: a new line of the view is one line here."""
_STYLES = {RUNNING: "green", UNSEEN: "yellow", STOPPED: "yellow", FAILED: "red", FINISHED: "green"}
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_WIDTH, _BAR = 32, 16
_Row = tuple[str, str, str]


def view(progress: Progress, encoding: str = "utf-8") -> RenderableType:
    """Parts of the view, the important ones first. No text of the run's can steer a terminal.

    `encoding`: the terminal's; one without block characters gets others.
    """
    bars = _BARS if encoding.lower().startswith("utf") else _PLAIN_BARS
    style = _STYLES[progress.state]
    return Group(
        Text.assemble(_text(progress.name, "bold"), "  ", _text(_state(progress), style)),
        _text(f"{progress.folder}{_done(progress)}"),
        *_part("", [_text(progress.error, style)] if progress.error else []),
        *_part("", [_text(said, "" if number else "bold") for number, said in enumerate(progress.verdict)]),
        *_part("", _grid([_stage(stage, bars, progress.state in (RUNNING, UNSEEN)) for stage in progress.stages])),
        *_part("", _grid(_curves(progress, bars))),
        *_part("", [_text(trouble, "yellow") for trouble in _troubles(progress)]),
        *_part("", [_text(_shares(progress.idle))] if progress.idle else []),
        *_part("last pairs", [each for pair in progress.pairs for each in _pair(pair)]),
    )


def sparkline(values: Sequence[float], bars: str = _BARS, width: int = _WIDTH) -> str:
    """A character for each value, or for the mean of neighbours where there are more than `width`.

    The first of `bars` is the lowest value, the last one the highest; values that are all the same are in the middle.
    """
    if len(values) > width:
        bounds = [number * len(values) // width for number in range(width + 1)]
        groups = [values[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        values = [sum(group) / len(group) for group in groups]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high == low:
        return bars[len(bars) // 2] * len(values)
    return "".join(bars[round((value - low) / (high - low) * (len(bars) - 1))] for value in values)


def span(seconds: float) -> str:
    """A length of time in its larger units: "42 s", "5 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _text(value: str, style: str = "", is_cut: bool = False) -> Text:
    """Text that is shown as it is; `is_cut`: in one line, as far as it fits."""
    return Text(printable(value), style, no_wrap=is_cut, overflow="ellipsis" if is_cut else "fold")


def _part(heading: str, lines: Iterable[RenderableType]) -> list[RenderableType]:
    """Lines under an empty one, and a heading where it has one; nothing of nothing."""
    found = list(lines)
    return [Text(), *([_text(heading, "bold")] if heading else []), *found] if found else []


def _grid(rows: Sequence[_Row]) -> list[RenderableType]:
    """Rows of three cells; the last one takes what the others leave, in several lines if need be."""
    table = Table.grid(padding=(0, 2))
    for is_whole in (True, True, False):
        table.add_column(no_wrap=is_whole)
    for row in rows:
        table.add_row(*map(_text, row))
    return [table] if rows else []


def _state(progress: Progress) -> str:
    def ago(moment: float | None) -> str:
        return "nobody knows when" if moment is None else f"{span(progress.now - moment)} ago"

    since, wrote, by = ago(progress.since), f"wrote {ago(progress.sign_of_life)}", progress.process
    return {
        RUNNING: f"running, started {since} ({by}), {wrote}",
        UNSEEN: f"started {since} ({by}), {wrote}; whether it still runs can't be seen from this machine",
        STOPPED: f"STOPPED without finishing, {wrote} ({by}); the same command resumes it",
        FAILED: f"FAILED {since} ({by}); the same command resumes it",
        FINISHED: f"finished {since}",
    }[progress.state]


def _done(progress: Progress) -> str:
    trained = f"trained {progress.num_trained} of {progress.iterations} iterations" if progress.iterations else ""
    last = f"last finished: {progress.last_finished}" if progress.last_finished else ""
    starts = f"started {progress.num_starts} times" if progress.num_starts > 1 else ""
    return "".join(f", {part}" for part in (trained, last, starts) if part)


def _stage(stage: StageProgress, bars: str, may_run: bool) -> _Row:
    """Cells: name; bar; what is done, and of a run that may still do it rates and time left."""
    of = "policy" if stage.name.startswith(EVALUATE) else "iteration"
    bar, said = "", []
    if stage.total:
        if stage.done is not None:
            full = round(min(1.0, stage.done / stage.total) * _BAR)
            bar = bars[-1] * full + bars[0] * (_BAR - full)
        said.append(f"{'' if stage.done is None else f'{stage.done} of '}{stage.total} {stage.unit}")
    if may_run and stage.per_second is not None:
        is_fast = stage.per_second >= 1
        said.append(f"{stage.per_second:.1f}/s" if is_fast else f"{60 * stage.per_second:.1f}/min")
        said += [] if stage.tokens_per_second is None else [f"{stage.tokens_per_second:.0f} tokens/s"]
        said += [f"{span(stage.seconds_left)} left"] if stage.seconds_left else []
    return f"{stage.name}, {of} {stage.step}", bar, ", ".join(said)


def _curves(progress: Progress, bars: str) -> list[_Row]:
    """Cells: name, curve, first and last value."""
    found = [(name, progress.curves[key]) for key, name in CURVES.items() if progress.curves.get(key)]
    return [
        (name, sparkline([value for _, value in points], bars), f"{points[0][1]:.3f} -> {points[-1][1]:.3f}")
        for name, points in found
    ]


def _troubles(progress: Progress) -> list[str]:
    replaced = ", ".join(f"{group} {count}" for group, count in progress.restarts.items())
    found = [f"actors that died or hung and were replaced: {replaced}"] if replaced else []
    found += [f"training questions that were set aside: {progress.num_failed}"] if progress.num_failed else []
    found += [f"last failure: {progress.last_failure}"] if progress.last_failure else []
    return [*found, *progress.notes]


def _shares(idle: dict[str, float]) -> str:
    return "idle in the last iteration: " + ", ".join(f"{group} {share:.0%}" for group, share in idle.items())


def _pair(pair: SeenPair) -> list[Text]:
    scores = ["" if score is None else f"{score:.2f}" for score in (pair.chosen_score, pair.rejected_score)]
    sides = ((pair.chosen, scores[0], "+", "green"), (pair.rejected, scores[1], "-", "red"))
    return [
        _text(pair.topic, is_cut=True),
        *(_text(f"  {mark} {score} {said}", style, is_cut=True) for said, score, mark, style in sides if said),
    ]
