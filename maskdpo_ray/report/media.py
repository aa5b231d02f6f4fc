"""Media that trackers show of a run beside its figures: answers before and after, pairs, scores, curves.

Samples are small and drawn by one rule: of the first 2,000 questions of a log, those whose ids have the smallest
SHA-256. So every evaluation shows the same questions, and a log of any length costs the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.pairing.scoring import precision
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    CommittedQuestion,
    ScoredAnswer,
)
from maskdpo_ray.report.passages import Passage, passages, visible
from maskdpo_ray.report.progress import ProgressReader
from maskdpo_ray.store import files
from maskdpo_ray.store.question_log import log_path, read_questions
from maskdpo_ray.store.trackers.media import Histogram, Html, Image, Media, Table

if TYPE_CHECKING:  # matplotlib, which is loaded when something is drawn
    from maskdpo_ray.report.plots import Plot

MARKS = {NO_HALLUCINATION: "✓", NO_FACT: "○", CONTRADICTORY: "✗", UNVERIFIABLE: "?", UNPARSED: "…"}
"""Label -> the mark before its sentences, for those to whom colours say nothing."""
_READ = 2000
_CURVES = {"train/loss": "loss", "train/margin": "reward margin", "train/accuracy": "accuracy"}
_STYLE = """
body { font: 14px/1.5 sans-serif; color: #1b1f24; background: #fff; margin: 8px }
table { border-collapse: collapse; width: 100% }
th, td { border: 1px solid #d7dce2; padding: 6px; text-align: left; vertical-align: top; overflow-wrap: anywhere }
td { white-space: pre-wrap }
td:first-child { min-width: 9em }
mark { color: inherit; background: none; padding: 0 2px; border-bottom: 2px solid }
.no_hallucination { background: #dff3e4; border-color: #2f7d4f }
.no_fact { background: #eef0f2; border-color: #5b6470 }
.contradictory { background: #fbdedf; border-bottom: 4px double #a8323e }
.unverifiable { background: #fdeccb; border-bottom: 2px dashed #b3541e }
.unparsed { background: #f3e8fb; border-bottom: 2px dotted #7a4fa3 }
i { color: #5b6470 }
"""
_Row = tuple[str, Sequence[ScoredAnswer | None]]
"""Heading, and the answers that stand side by side."""


def of_evaluation(folder: Path, name: str, version: int, num_samples: int) -> dict[str, Media]:
    """Media of the evaluation `name` ("heldout") of a policy, which is finished.

    Labelled answers of policy 0 and of this one to `num_samples` questions, as a page and as a table; scores of this
    one's answers; score and recall by policy, with 95% intervals.
    """
    logs = [_first(folder / log_path(each, name)) for each in sorted({0, version})]
    sides = ["before", "after"][: len(logs)]
    ids = _drawn(set(logs[0]).intersection(*logs), num_samples)
    rows = [(each, [_answers(log[each])[0] for log in logs]) for each in ids]
    scores = [answer.score for question in logs[-1].values() for answer in _answers(question)]
    return {
        **_samples(f"media/{name}/answers", sides, rows),
        **_histogram(f"media/{name}/scores", scores),
        **_of_policies(folder, name, version),
    }


def of_collection(folder: Path, iteration: int, num_samples: int) -> dict[str, Media]:
    """Media of an iteration's questions, which are collected: `num_samples` pairs, scores of answers, gaps of pairs."""
    log = _first(folder / log_path(iteration))
    pairs = {name: found for name, question in log.items() if (found := question.preference_pairs())}
    rows = []
    for name in _drawn(pairs, num_samples):
        first = pairs[name][0]
        rows.append((f"{first.topic} ({name})", [first.chosen, first.rejected]))
    gaps = [
        pair.chosen.score - pair.rejected.score
        for found in pairs.values()
        for pair in found
        if pair.chosen and pair.rejected and pair.chosen.score is not None and pair.rejected.score is not None
    ]
    return {
        **_samples("media/pairs/answers", ["chosen", "rejected"], rows),
        **_histogram("media/pairs/scores", [answer.score for each in log.values() for answer in _answers(each)]),
        **_histogram("media/pairs/gaps", gaps),
    }


def of_training(folder: Path) -> dict[str, Media]:
    """Curves of all training steps so far."""
    from maskdpo_ray.report import plots

    found = ProgressReader(folder).read().curves
    curves = [
        (key, plots.Curve(title, *zip(*found[key], strict=True))) for key, title in _CURVES.items() if key in found
    ]
    return {f"media/{key}": _image(plots.curves(curve.name, [curve], "optimizer step")) for key, curve in curves}


def _of_policies(folder: Path, name: str, version: int) -> dict[str, Media]:
    from maskdpo_ray.report import plots

    names = {each: folder / f"eval_{each:03d}" / f"{name}.json" for each in range(version + 1)}
    found = {each: files.read_json(file, Evaluation).metrics for each, file in names.items() if file.is_file()}
    lines = []
    for metric in ("score", "recall"):
        of_metric = [metrics[metric] for metrics in found.values()]
        if any(each.mean is not None for each in of_metric):
            ends = ([getattr(each, end) for each in of_metric] for end in ("mean", "low", "high"))
            lines.append(plots.Curve(metric, list(found), *ends))
    return {f"media/{name}/by_policy": _image(plots.curves(name, lines, "policy", whole_x=True))} if lines else {}


def _first(log: Path) -> dict[str, CommittedQuestion]:
    """The first questions of a log, by id; those without answers are left out."""
    return {each.question_id: each for each in islice(read_questions(log), _READ) if each.rollouts}


def _drawn(ids: Iterable[str], count: int) -> list[str]:
    return sorted(ids, key=lambda each: hashlib.sha256(each.encode()).digest())[:count]


def _answers(question: CommittedQuestion) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(rollout, annotation, precision(annotation))
        for rollout, annotation in zip(question.rollouts, question.annotations, strict=True)
    ]


def _samples(name: str, sides: Sequence[str], rows: Sequence[_Row]) -> dict[str, Media]:
    """Answers side by side as a page, and as a table with marks in place of colours."""
    if not rows:
        return {}
    columns = ["question", *(column for side in sides for column in (side, f"{side}: score"))]
    cells: list[list[str | float | None]] = []
    for heading, answers in rows:
        cells.append([visible(heading)])
        for answer in answers:
            cells[-1] += ["", None] if answer is None else [_marked(answer), answer.score]
    return {name: Html(_page(sides, rows)), f"{name}_table": Table(columns, cells)}


def _marked(answer: ScoredAnswer) -> str:
    """An answer whose sentences have the marks of their labels."""
    return "".join(f"{_mark(each)}{each.text}" for each in _parts(answer))


def _parts(answer: ScoredAnswer) -> list[Passage]:
    return passages(answer.rollout, answer.annotation)


def _mark(passage: Passage) -> str:
    return "" if passage.label is None else f"{MARKS[passage.label]} "


def _page(sides: Sequence[str], rows: Sequence[_Row]) -> str:
    legend = " ".join(f'<mark class="{label}">{mark} {label.replace("_", " ")}</mark>' for label, mark in MARKS.items())
    heads = "".join(f"<th>{head}</th>" for head in ("question", *sides))
    body = "".join(
        f"<tr><td>{escape(visible(heading))}</td>{''.join(map(_cell, answers))}</tr>\n" for heading, answers in rows
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{" and ".join(sides)}</title>'
        f"<style>{_STYLE}</style></head><body><p>{legend}</p>\n"
        f"<table><tr>{heads}</tr>\n{body}</table></body></html>"
    )


def _cell(answer: ScoredAnswer | None) -> str:
    if answer is None:
        return "<td></td>"
    score = "no score" if answer.score is None else f"score {answer.score:.2f}"
    return f"<td><i>{score}</i>\n{''.join(map(_span, _parts(answer)))}</td>"


def _span(passage: Passage) -> str:
    text = f"{_mark(passage)}{escape(passage.text)}"
    if passage.label is None:
        return f"<i>{text}</i>" if passage.is_thinking else text
    return f'<mark class="{passage.label}" title="{escape(passage.title)}">{text}</mark>'


def _histogram(name: str, values: Iterable[float | None]) -> dict[str, Media]:
    known = [value for value in values if value is not None]
    return {name: Histogram(known)} if known else {}


def _image(plot: Plot) -> Image:
    return Image(plot.png(), f"{plot.title}: {plot.text}")
