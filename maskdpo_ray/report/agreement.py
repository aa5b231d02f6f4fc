"""Agreement of an annotator with labels set by hand as text."""

from __future__ import annotations

from collections.abc import Mapping

from maskdpo_ray.evaluation.agreement import Agreement, Figure
from maskdpo_ray.records import UNPARSED

SEED, SAMPLES = 0, 2000
"""Bootstrap over topics, the same on every call."""
_OF_CLASS = ("precision", "recall", "f1", "kappa")
_OVERALL = ("accuracy", "balanced accuracy", "kappa")


def render(found: Agreement) -> str:
    """Figures by class and of all classes, the two sides if there are more, and the confusion."""
    counts = found.confusion
    lines = [
        f"{int(counts.sum())} sentences of {found.answers} answers about {len(found.by_topic)} topics; "
        "in brackets: 95% intervals, bootstrap over topics",
        _row("label", "by hand", "given", _OF_CLASS),
        *(_class(found, name) for name in found.classes),
        f"all classes: {_named(found.overall(SEED, SAMPLES))}",
    ]
    sides = found.sides()
    if len(found.classes) > 2:
        lines += [_class(sides, sides.classes[1]), f"both sides: {_named(sides.overall(SEED, SAMPLES))}"]
    columns = (*found.classes, UNPARSED)
    lines += ["by hand (rows), by the annotator (columns):", " " * 17 + "".join(f"{name:>17}" for name in columns)]
    for name, row in zip(found.classes, counts, strict=True):
        lines.append(f"{name:<17}" + "".join(f"{int(count):>17}" for count in row))
    return "\n".join(lines)


def _class(found: Agreement, name: str) -> str:
    place, counts = found.classes.index(name), found.confusion
    figures = found.of_class(name, SEED, SAMPLES)
    by_hand, given = int(counts[place].sum()), int(counts[:, place].sum())
    return _row(name, by_hand, given, [_figure(figures[each]) for each in _OF_CLASS])


def _row(name: str, by_hand: object, given: object, cells: tuple[str, ...] | list[str]) -> str:
    return f"{name:<17}{by_hand!s:>8}{given!s:>8}" + "".join(f"{cell:>22}" for cell in cells)


def _named(figures: Mapping[str, Figure]) -> str:
    return ", ".join(f"{name} {_figure(figures[name])}" for name in _OVERALL)


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.2f}, {figure.high:.2f}]"
