"""Pictures: what they draw, and how they lie in a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from maskdpo_ray.report import plots
from maskdpo_ray.report.plots import Curve, Plot, Span

CURVES = plots.curves(
    "Score",
    [
        Curve("held-out", [0, 1, 2], [0.6, None, 0.75], [0.5, None, 0.7], [0.7, None, 0.8]),
        Curve("b", [0, 1], [0.3, 0.3]),
    ],
    "policy",
    whole_x=True,
    ring=2,
)
PLOTS = [
    CURVES,
    plots.stacked("Pairs", {"iteration 0": {"kept": 94}, "iteration 1": {"kept": 89, "same score": 5}}, "questions"),
    plots.timeline("Time", [Span("collect", 0, 100), Span("train", 100, 50), Span("collect", 150, 90)]),
    plots.histogram("Gaps", {"gap": [1, 2, 3]}, [0, 0.3, 0.6, 1], "gap"),
    plots.intervals("Differences", {"masked": (0.1, -0.05, 0.25), "one seed": (-0.2, None, None)}, "score"),
    plots.columns("Shift", {"in": {"a": [0.1, 0.2], "b": [0.3, 0]}, "out": {"a": [0, 0.1], "b": [0, 0]}}, "x", "y"),
]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.title)
def test_svg_is_one_element_that_depends_on_nothing(plot: Plot) -> None:
    svg = plot.svg()
    root = ElementTree.fromstring(svg)  # well-formed without the namespaces that HTML has anyway
    assert root.tag == "svg" and root.get("viewBox")
    assert not {"width", "height"} & root.attrib.keys()
    assert "http" not in svg and "<style" not in svg and "script" not in svg
    assert not re.findall("#[0-9a-f]{6}", svg), "every colour is a variable of the page"
    assert re.search(r"var\(--\w+\)", svg)


def test_ids_of_two_pictures_never_meet() -> None:
    drawn = [plot.svg() for plot in PLOTS]
    ids = [set(re.findall(' id="([^"]*)"', svg)) for svg in drawn]
    assert all(ids)
    assert len(set.union(*ids)) == sum(map(len, ids))
    for svg, own in zip(drawn, ids, strict=True):
        assert set(re.findall(r"#([\w-]+)", svg)) <= own


def test_same_figures_give_the_same_bytes() -> None:
    first, second = (plots.curves("A", [Curve("a", [0, 1], [0.1, 0.2])], "x") for _ in range(2))
    assert first.svg() == second.svg()
    assert first.png().startswith(b"\x89PNG")
    assert first.svg_file() == second.svg_file() and ElementTree.fromstring(first.svg_file()).tag.endswith("}svg")


def test_long_curve_is_thinned_to_means_of_neighbours() -> None:
    x = list(range(100_000))
    places, values = plots._thinned(x, [float(value) for value in x])
    assert len(places) == len(values) == plots.MOST_POINTS
    assert values == pytest.approx(places)
    assert values.mean() == pytest.approx(sum(x) / len(x))


def test_words_say_what_the_picture_shows() -> None:
    assert CURVES.text == "held-out: from 0.6 to 0.75; b: from 0.3 to 0.3"
    assert PLOTS[1].text == "iteration 0: kept 94; iteration 1: kept 89, same score 5"
    assert PLOTS[2].text == "collect: 190 s; train: 50 s"
    assert PLOTS[4].text == "masked: 0.1 (from -0.05 to 0.25); one seed: -0.2"
    assert PLOTS[5].text == "in: a 0.100 0.200, b 0.300 0.000; out: a 0.000 0.100, b 0.000 0.000"
