"""The summary of a run as tables, for a terminal of 80 columns or more.

A table is a list of columns, (heading, entry -> cell): a new column is one line. Entries are those of summary.json.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskdpo_ray.errors import printable
from maskdpo_ray.evaluation.judged_metrics import perplexity
from maskdpo_ray.report.remarks import in_focus

Entry = dict[str, Any]
Column = tuple[str, Callable[[Entry], str]]


def render(summary: Entry, width: int = 80, color: bool = False) -> str:
    """The tables as text, at most `width` columns (80 or more), with colour codes only when asked for."""
    text = io.StringIO()
    _print(summary, Console(file=text, width=width, no_color=not color, force_terminal=color, highlight=False))
    return text.getvalue()


def show(summary: Entry, file: TextIO | None = None) -> None:
    """Print the tables on `file` or standard output; colour only on a terminal."""
    _print(summary, Console(file=file or sys.stdout, highlight=False))


def number(value: float | None, form: str = ".3f", absent: str = "") -> str:
    """A figure by its format specification; `absent` where it is not defined."""
    return absent if value is None else format(value, form)


def _print(summary: Entry, console: Console) -> None:
    summary = _printable(summary)
    kept = summary.get("kept")
    console.print(f"Run {summary['run']}{_headline(kept) if kept else ''}", style="bold", markup=False)
    for name, subject in summary.get("subjects", {}).items():  # of an evaluation on its own
        console.print(f"  {name}: {subject}", markup=False, soft_wrap=True)
    # Of development topics only what the choice went by.
    shown = {split: versions for split, versions in summary["evaluations"].items() if split != "dev" or kept is None}
    tables = [table for split, versions in shown.items() for table in _evaluation(split, versions, kept)]
    if kept and kept["candidates"]:
        tables.append(_choice(kept))
    if summary["pairs"]:
        tables.append(_pairs(summary["pairs"]))
    if summary["stages"]:
        step = "step: the iteration; of an evaluation, the policy (0: before training)."
        tables.append(_table("Stages", _STAGES, summary["stages"], step, text_columns=2))
    if summary["idle"]:
        tables.append(_idle(summary["idle"]))
    for table in tables:
        console.print(table, Text(), sep="\n")
    if summary["restarts"]:
        replaced = ", ".join(f"{group} {count}" for group, count in summary["restarts"].items())
        console.print(f"Actors that died or hung and were replaced: {replaced}\n", markup=False)
    if summary["remarks"]:
        console.print("In words", style="bold")
    for remark in summary["remarks"]:
        console.print(f"* {remark}", markup=False)
    folder = summary["folder"]
    console.print(
        f"\nResults: {folder}\n  summary.json, metrics.jsonl (over time), ledger.jsonl (what is committed)\n"
        "  eval_*/ (answers with labels, statistics)" + ", iter_*/ (rollouts, labels, pairs)" * bool(summary["pairs"]),
        markup=False,
        soft_wrap=True,
    )
    for policy in summary["policies"]:
        console.print(f"  policy: {policy}", markup=False, soft_wrap=True)
    if kept:
        console.print(f"  kept:   {kept['policy']} (policy {kept['version']})", markup=False, soft_wrap=True)


def _headline(kept: Entry) -> str:
    """The kept policy with its held-out score, the gain's interval and what it tells."""
    how = "the best on development topics" if kept["keep"] == "best" else "the last"
    gain = kept["gain"]
    by = "" if gain is None else f" (gain {_signed(gain['gain'])}, 95% {_bounds(gain, _signed)})"
    told = "correct facts" if kept["recall"] is None else "recall"
    figure = number(kept["correct_facts"], ".2f") if kept["recall"] is None else number(kept["recall"])
    where = f"policy {kept['version']}{' (before training)' * (kept['version'] == 0)}"
    return f": {where}, {how}: score {number(kept['score'], absent='-')}{by}, {told} {figure}"


def _printable(value: Any) -> Any:
    """JSON values without text that steers a terminal: kinds and examples come from annotators and models."""
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _table(
    title: str, columns: Sequence[Column], entries: Iterable[Entry], caption: str | None = None, text_columns: int = 1
) -> Table:
    """A row for each entry; the first `text_columns` are flush left."""
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        title_style="bold",
        caption_style="",
    )
    for position, (heading, _) in enumerate(columns):
        table.add_column(heading, justify="left" if position < text_columns else "right")
    for entry in entries:
        table.add_row(*(cell(entry) for _, cell in columns))
    return table


# Cells


def _field(name: str, form: str = "") -> Callable[[Entry], str]:
    return lambda entry: number(entry.get(name), form)


def _mean(metric: str, form: str = ".3f") -> Callable[[Entry], str]:
    return lambda entry: number(entry["metrics"][metric]["mean"], form, "-")


def _spread(metric: str, form: str = ".3f") -> Callable[[Entry], str]:
    """Mean ± standard deviation, where there is one."""

    def cell(entry: Entry) -> str:
        statistic = entry["metrics"][metric]
        sd = statistic["sd"]
        return number(statistic["mean"], form, "-") + ("" if sd is None else f" ± {sd:{form}}")

    return cell


def _gain(entry: Entry, metric: str = "score") -> Entry:
    """The change of a metric; empty in the first row, which the others are compared with."""
    return entry["gain"][metric] if entry["gain"] else dict.fromkeys(("gain", "low", "high"))


def _bounds(change: Entry, form: Callable[[float | None], str]) -> str:
    return "" if change["low"] is None else f"{form(change['low'])} to {form(change['high'])}"


def _signed(value: float | None) -> str:
    return number(value, "+.3f")


def _perplexity(nats: float | None) -> str:
    return "" if nats is None else f"{perplexity(nats):#.4g}"


_POLICY: Column = ("policy", lambda entry: entry["name"])
_GAIN: list[Column] = [
    ("gain", lambda entry: _signed(_gain(entry)["gain"])),
    ("95% interval", lambda entry: _bounds(_gain(entry), _signed)),
]
_F1: Column = ("F1@K", _mean("f1_at_k"))
_CONTENTS: list[Column] = [
    _POLICY,
    ("correct", _mean("correct_facts", ".2f")),
    ("wrong", _mean("incorrect_facts", ".2f")),
    ("sentences", _mean("sentences", ".2f")),
    ("tokens", _mean("tokens", ".1f")),
    ("nothing", _mean("nothing_checkable", ".1%")),
    ("abstain", _mean("abstained", ".1%")),
    ("cut off", _mean("cut_off", ".1%")),
]
_CHANGES: list[Column] = [
    ("", lambda change: change["label"]),
    ("before", _field("before", ".3f")),
    ("after", _field("after", ".3f")),
    ("gain", _field("gain", "+.3f")),
    ("95% interval", lambda change: _bounds(change, _signed)),
]
_STAGES: list[Column] = [
    ("step", _field("step")),
    ("stage", lambda entry: entry["stage"]),
    ("seconds", _field("seconds", ".1f")),
    ("tokens", _field("tokens", ",.0f")),
    ("tokens/s", lambda entry: number(_ratio(entry.get("tokens"), entry.get("seconds")), ",.0f")),
]
_CHANGED = {
    "score": "score",
    "recall": "recall",
    "f1_at_k": "F1@K",
    "pooled_score": "pooled score",
    "correct_facts": "correct facts",
    "incorrect_facts": "incorrect facts",
    "contradictory": "  contradictory",
    "unverifiable": "  unverifiable",
    "no_fact": "sentences without a fact",
    "unparsed": "unparsed",
    "sentences": "sentences",
    "tokens": "tokens",
    "thinking": "  and of thinking",
    "distinct_1": "distinct tokens / tokens",
    "distinct_2": "distinct pairs / pairs",
    "cut_off": "cut off",
    "nothing_checkable": "nothing checkable",
    "abstained": "abstained",
}
"""Rows of the table of changes: metric -> label."""
_CHANGED_BY_SECOND = {
    "score": "score",
    "penalized_score": "score with length penalty",
    "pooled_score": "pooled score",
    "correct_facts": "correct facts",
    "incorrect_facts": "incorrect facts",
    "irrelevant": "irrelevant facts",
    "unparsed": "unparsed",
    "abstained": "abstained",
}
_ONLY_IF_SEEN = frozenset(
    "recall f1_at_k contradictory unverifiable no_fact unparsed irrelevant abstained thinking".split()
)
_TITLES = {"heldout": "Held-out topics", "transfer": "Transfer domain", "dev": "Development topics"}


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value and by else None


# Tables


def _evaluation(split: str, versions: list[Entry], kept: Entry | None) -> list[Table]:
    """All tables of one split; those of two policies compare the first with the kept one."""
    last, is_compared = in_focus(versions, kept), len(versions) > 1
    tables = [
        _table(
            f"{_TITLES[split]}: factuality ({last['topics']} topics, {last['questions']} questions, "
            f"{last['replications']} answers each)",
            [_POLICY, ("score", _spread("score")), *_GAIN * is_compared, ("recall", _spread("recall")), _F1],
            versions,
            "score: correct sentences / sentences, mean over answers; recall: facts that were asked for and stated "
            "correctly / asked for; F1@K of both by answer. ±: standard deviation over the replications."
            + " Interval: paired bootstrap over topics."
            * is_compared,
        ),
        _table(
            "What an answer holds",
            _CONTENTS,
            versions,
            "correct, wrong: facts. nothing: share of answers that say nothing checkable; abstain: that say they "
            "don't know.",
        ),
    ]
    ends = [versions[0], last] if is_compared else versions
    if any("greedy" in version for version in versions):
        tables.append(_greedy([version for version in versions if "greedy" in version], is_compared))
    if is_compared:
        tables.append(_changes(last["name"], last["gain"], _CHANGED))
    if any(version["kinds"] for version in versions):
        tables.append(_kinds([version["kinds"] for version in ends]))
    if last["replications"] > 1:
        tables.append(_best_of(ends))
    if "judged" in last and last["judged"]["evaluator"] is not None:
        tables += _second_opinion(versions, last)
    if "judged" in last and last["judged"]["perplexity_model"] is not None:
        tables.append(_language([{"name": version["name"], **version["judged"]} for version in versions]))
    return tables


def _changes(name: str, gain: Entry, labels: dict[str, str], by: str = "") -> Table:
    changes = [{"label": label, **gain[metric]} for metric, label in labels.items() if _is_shown(metric, gain[metric])]
    return _table(f"Change from before to {name}, per answer{by}", _CHANGES, changes)


def _is_shown(metric: str, change: Entry) -> bool:
    return metric not in _ONLY_IF_SEEN or bool(change["before"] or change["after"])


def _kinds(ends: list[Entry]) -> Table:
    headings = ("correct before", "after", "incorrect before", "after") if len(ends) > 1 else ("correct", "incorrect")
    nothing = {"correct": 0.0, "incorrect": 0.0}
    rows = []
    for kind in sorted({kind for kinds in ends for kind in kinds}):
        sides = [kinds.get(kind, nothing) for kinds in ends]
        rows.append({"kind": kind, "cells": [side[label] for label in ("correct", "incorrect") for side in sides]})
    cells = [(heading, lambda row, i=i: number(row["cells"][i], ".2f")) for i, heading in enumerate(headings)]
    return _table("By kind of fact, per answer", [("kind", lambda row: row["kind"]), *cells], rows)


def _best_of(ends: list[Entry]) -> Table:
    cells = [(f"n = {n}", lambda entry, n=n: number(entry["best_of"].get(n))) for n in ends[-1]["best_of"]]
    return _table("Score of the best of n answers", [_POLICY, *cells], ends)


def _language(entries: list[Entry]) -> Table:
    """Perplexities; after a gain in nats per token it is exp(gain) times as high."""
    is_compared = len(entries) > 1
    factor: list[Column] = [
        ("factor", lambda entry: _perplexity(_gain(entry, "nats_per_token")["gain"])),
        ("95% interval", lambda entry: _bounds(_gain(entry, "nats_per_token"), _perplexity)),
    ]
    return _table(
        f"Perplexity of the answers under {entries[-1]['perplexity_model']}",
        [
            _POLICY,
            ("perplexity", lambda entry: _perplexity(entry["metrics"]["nats_per_token"]["mean"])),
            ("95% interval", lambda entry: _bounds(entry["metrics"]["nats_per_token"], _perplexity)),
            *factor * is_compared,
            ("unread", _mean("unread", ".1%")),
        ],
        entries,
        "High where answers are not like language. "
        + "factor: after / before. " * is_compared
        + "unread: share of answers that are too long for the model.",
    )


def _second_opinion(versions: list[Entry], last: Entry) -> list[Table]:
    """The annotator's figures beside those of a second evaluator, and all of the latter's."""
    evaluator, is_compared = last["judged"]["evaluator"], len(versions) > 1
    rows = [{**version, "judge": "annotator"} for version in versions]
    rows += [{**version["judged"], "name": version["name"], "judge": "second"} for version in versions]
    table = _table(
        f"Two judges: the annotator of training, and {evaluator}",
        [
            ("judge", lambda entry: entry["judge"]),
            _POLICY,
            ("score", _mean("score")),
            *_GAIN * is_compared,
            ("correct", _mean("correct_facts", ".2f")),
            ("incorrect", _mean("incorrect_facts", ".2f")),
        ],
        rows,
        "correct, incorrect: facts per answer, each judge's own.",
        text_columns=2,
    )
    if not is_compared:
        return [table]
    return [table, _changes(last["name"], last["judged"]["gain"], _CHANGED_BY_SECOND, f", by {evaluator}")]


def _greedy(versions: list[Entry], is_compared: bool) -> Table:
    greedy = [{"sampled": version["metrics"], "name": version["name"], **version["greedy"]} for version in versions]
    return _table(
        "Greedy answers beside sampled ones",
        [
            _POLICY,
            ("sampled", lambda entry: number(entry["sampled"]["score"]["mean"], absent="-")),
            ("greedy", _mean("score")),
            *_GAIN * is_compared,
            ("recall", lambda entry: number(entry["sampled"]["recall"]["mean"], absent="-")),
            ("greedy", _mean("recall")),
        ],
        greedy,
        "Score and recall of sampled and of greedy answers." + " gain: of the greedy score." * is_compared,
    )


def _choice(kept: Entry) -> Table:
    names = {"recall": "recall", "correct_facts": "correct facts"}
    told = names[kept["told_by"]]
    watches_kinds = any(entry["rarer"] for entry in kept["candidates"])
    return _table(
        "Choice on development topics",
        [
            ("policy", _field("version")),
            ("score", lambda entry: number(entry["score"], ".3f", "-")),
            (told, lambda entry: number(entry["told"], ".3f", "-")),
            ("balance", _field("balance", ".3f")),
            ("fell beyond noise", lambda entry: ", ".join({**names, "score": "score"}[name] for name in entry["fell"])),
            *[("stated too seldom", lambda entry: ", ".join(entry["rarer"]))] * watches_kinds,
            ("", lambda entry: "best" if entry["version"] == kept["best"] else ""),
        ],
        kept["candidates"],
        f"balance: harmonic mean of score and {told}"
        + " / those of policy 0" * (told != "recall")
        + "; a policy that fell behind policy 0 in either is no candidate.",
        text_columns=0,
    )


def _pairs(iterations: list[Entry]) -> Table:
    names = list(dict.fromkeys(name for entry in iterations for name in entry["mixture"]))
    shares = [(name.replace("_", " "), lambda entry, name=name: number(entry["mixture"].get(name))) for name in names]
    dropped = [
        f"dropped in iteration {entry['iteration']}: "
        + (", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in entry["drops"].items()) or "none")
        + (f"; failed, such as: {entry['failed_example']}" if entry["failed_example"] else "")
        for entry in iterations
    ]
    counts = [(name, _field(name)) for name in ("iteration", "questions", "pairs")]
    return _table("Pairs", [*counts, *shares], iterations, "\n".join(dropped))


def _idle(iterations: list[Entry]) -> Table:
    groups = list(dict.fromkeys(name for entry in iterations for name in entry if name != "iteration"))
    columns = [("iteration", _field("iteration")), *((group, _field(group, ".1%")) for group in groups)]
    return _table("Idle share of each group of actors, evaluations included", columns, iterations)


def markdown_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; a bar in a cell becomes a slash."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    return [line(headings), "|---" * len(headings) + "|", *map(line, rows)]
