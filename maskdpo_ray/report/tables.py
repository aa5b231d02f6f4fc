"""The summary of a run as tables, for a terminal of 80 columns or more."""

from __future__ import annotations

import io
import sys
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskdpo_ray.errors import printable
from maskdpo_ray.evaluation.judged_metrics import perplexity

_TITLES = {"heldout": "Held-out topics", "transfer": "Transfer domain"}


def render(summary: dict[str, Any], width: int = 80, color: bool = False) -> str:
    """The tables as text, at most `width` columns (80 or more), with colour codes only when asked for."""
    text = io.StringIO()
    _print(summary, Console(file=text, width=width, no_color=not color, force_terminal=color, highlight=False))
    return text.getvalue()


def show(summary: dict[str, Any], file: TextIO | None = None) -> None:
    """Print the tables on `file` or standard output; colour only on a terminal."""
    _print(summary, Console(file=file or sys.stdout, highlight=False))


def _print(summary: dict[str, Any], console: Console) -> None:
    summary = _printable(summary)
    console.print(f"Run {summary['run']}", style="bold", markup=False)
    for name, subject in summary.get("subjects", {}).items():  # of an evaluation on its own
        console.print(f"  {name}: {subject}", markup=False, soft_wrap=True)
    for split, versions in summary["evaluations"].items():
        tables = [_scores(split, versions), _contents(versions)]
        if len(versions) > 1:
            last = versions[-1]
            tables.append(_changes(last["name"], last["gain"], _SHOWN))
        if any(version["kinds"] for version in versions):
            tables.append(_kinds(versions))
        if versions[-1]["replications"] > 1:
            tables.append(_best_of(versions))
        if "judged" in versions[-1]:
            tables += _judged(versions)
        for table in tables:
            console.print(table, Text(), sep="\n")
    if summary["pairs"]:
        console.print(_pairs(summary["pairs"]), Text(), sep="\n")
    if summary["stages"]:
        console.print(_stage_table(summary["stages"]), Text(), sep="\n")
    if summary["idle"]:
        console.print(_idle_table(summary["idle"]), Text(), sep="\n")
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


def _printable(value: Any) -> Any:
    """JSON values with no text that steers a terminal: kinds and examples come from annotators and models."""
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _table(title: str, *columns: str, text_columns: int = 1, caption: str | None = None) -> Table:
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
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text_columns else "right")
    return table


def _ends(versions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last, or the only one."""
    return versions if len(versions) == 1 else [versions[0], versions[-1]]


_GAIN = ("gain", "95% interval")


def _gain(entry: dict[str, Any]) -> tuple[str, str]:
    """Cells of the gain of the score; empty in the first row, which the others are compared with."""
    change = entry["gain"] and entry["gain"]["score"]
    return (_signed(change["gain"]), _bounds(change)) if change else ("", "")


def _scores(split: str, versions: list[dict[str, Any]]) -> Table:
    last, is_compared = versions[-1], len(versions) > 1
    table = _table(
        f"{_TITLES[split]}: factuality ({last['topics']} topics, {last['questions']} questions, "
        f"{last['replications']} answers each)",
        "policy",
        "score",
        *_GAIN * is_compared,
        "pooled score",
        caption="score: correct sentences / sentences, mean over answers; pooled: correct facts / facts. "
        "±: standard deviation over the replications." + " Interval: paired bootstrap over topics." * is_compared,
    )
    for version in versions:
        table.add_row(
            version["name"],
            _spread(version["metrics"]["score"]),
            *_gain(version) * is_compared,
            _spread(version["metrics"]["pooled_score"]),
        )
    return table


def _contents(versions: list[dict[str, Any]]) -> Table:
    table = _table(
        "What an answer holds",
        "policy",
        "correct",
        "incorrect",
        "sentences",
        "tokens",
        "nothing",
        "cut off",
        caption="correct, incorrect: facts. nothing: share of answers that say nothing checkable.",
    )
    for version in versions:
        metrics = version["metrics"]
        table.add_row(
            version["name"],
            _spread(metrics["correct_facts"], 2),
            _spread(metrics["incorrect_facts"], 2),
            _plain(metrics["sentences"]["mean"], 2),
            _plain(metrics["tokens"]["mean"], 1),
            _percent(metrics["nothing_checkable"]["mean"]),
            _percent(metrics["cut_off"]["mean"]),
        )
    return table


_SHOWN = {
    "score": "score",
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
}
_SHOWN_OF_SECOND = {
    "score": "score",
    "penalized_score": "score with length penalty",
    "pooled_score": "pooled score",
    "correct_facts": "correct facts",
    "incorrect_facts": "incorrect facts",
    "irrelevant": "irrelevant facts",
    "unparsed": "unparsed",
    "abstained": "abstained",
}
_ONLY_IF_SEEN = ("contradictory", "unverifiable", "no_fact", "unparsed", "irrelevant", "abstained", "thinking")


def _changes(name: str, gain: dict[str, Any], shown: dict[str, str], by: str = "") -> Table:
    table = _table(f"Change from before to {name}, per answer{by}", "", "before", "after", "gain", "95% interval")
    for metric, label in shown.items():
        change = gain[metric]
        if metric in _ONLY_IF_SEEN and not (change["before"] or change["after"]):
            continue
        table.add_row(
            label, _plain(change["before"]), _plain(change["after"]), _signed(change["gain"]), _bounds(change)
        )
    return table


def _kinds(versions: list[dict[str, Any]]) -> Table:
    ends = [version["kinds"] for version in _ends(versions)]
    columns = ("correct before", "after", "incorrect before", "after") if len(ends) > 1 else ("correct", "incorrect")
    table = _table("By kind of fact, per answer", "kind", *columns)
    nothing = {"correct": 0.0, "incorrect": 0.0}
    for kind in sorted({kind for kinds in ends for kind in kinds}):
        sides = [kinds.get(kind, nothing) for kinds in ends]
        table.add_row(kind, *(_plain(side[label], 2) for label in ("correct", "incorrect") for side in sides))
    return table


def _best_of(versions: list[dict[str, Any]]) -> Table:
    sizes = list(versions[-1]["best_of"])
    table = _table("Score of the best of n answers", "policy", *(f"n = {n}" for n in sizes))
    for version in _ends(versions):
        table.add_row(version["name"], *(_plain(version["best_of"].get(n)) for n in sizes))
    return table


def _judged(versions: list[dict[str, Any]]) -> list[Table]:
    """What others than the annotator say of the answers."""
    last = versions[-1]["judged"]
    by_evaluator = [] if last["evaluator"] is None else _second_opinion(versions)
    return by_evaluator if last["perplexity_model"] is None else [*by_evaluator, _language(versions)]


def _language(versions: list[dict[str, Any]]) -> Table:
    """Perplexities; after a gain in nats per token it is exp(gain) times as high."""
    is_compared = len(versions) > 1
    table = _table(
        f"Perplexity of the answers under {versions[-1]['judged']['perplexity_model']}",
        "policy",
        "perplexity",
        "95% interval",
        *("factor", "95% interval") * is_compared,
        "unread",
        caption="High where answers are not like language. "
        + "factor: after / before. " * is_compared
        + "unread: share of answers that are too long for the model.",
    )
    for version in versions:
        metrics, gain = version["judged"]["metrics"], version["judged"]["gain"]
        statistic, change = metrics["nats_per_token"], gain and gain["nats_per_token"]
        factor = (_perplexity(change["gain"]), _perplexities(change)) if change else ("", "")
        table.add_row(
            version["name"],
            _perplexity(statistic["mean"]),
            _perplexities(statistic),
            *factor * is_compared,
            _percent(metrics["unread"]["mean"]),
        )
    return table


def _second_opinion(versions: list[dict[str, Any]]) -> list[Table]:
    """The annotator's figures beside those of a second evaluator, and all of the latter's."""
    last, evaluator, is_compared = versions[-1], versions[-1]["judged"]["evaluator"], len(versions) > 1
    table = _table(
        f"Two judges: the annotator of training, and {evaluator}",
        "judge",
        "policy",
        "score",
        *_GAIN * is_compared,
        "correct",
        "incorrect",
        text_columns=2,
        caption="correct, incorrect: facts per answer, each judge's own.",
    )
    for judge, entries in (("annotator", versions), ("second", [version["judged"] for version in versions])):
        for version, entry in zip(versions, entries, strict=True):
            table.add_row(
                judge,
                version["name"],
                _plain(entry["metrics"]["score"]["mean"]),
                *_gain(entry) * is_compared,
                *(_plain(entry["metrics"][f"{side}_facts"]["mean"], 2) for side in ("correct", "incorrect")),
            )
    if len(versions) == 1:
        return [table]
    by = f", by {evaluator}"
    return [table, _changes(last["name"], last["judged"]["gain"], _SHOWN_OF_SECOND, by)]


def _pairs(iterations: list[dict[str, Any]]) -> Table:
    shares = list(dict.fromkeys(name for entry in iterations for name in entry["mixture"]))
    dropped = [
        f"dropped in iteration {entry['iteration']}: "
        + (", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in entry["drops"].items()) or "none")
        + (f"; failed, such as: {entry['failed_example']}" if entry["failed_example"] else "")
        for entry in iterations
    ]
    table = _table(
        "Pairs",
        "iteration",
        "questions",
        "pairs",
        *(name.replace("_", " ") for name in shares),
        caption="\n".join(dropped),
    )
    for entry in iterations:
        table.add_row(
            str(entry["iteration"]),
            str(entry["questions"]),
            str(entry["pairs"]),
            *(_plain(entry["mixture"].get(name), 3) for name in shares),
        )
    return table


def _stage_table(stages: list[dict[str, Any]]) -> Table:
    table = _table(
        "Stages",
        "step",
        "stage",
        "seconds",
        "tokens",
        "tokens/s",
        text_columns=2,
        caption="step: the iteration; of an evaluation, the policy (0: before training).",
    )
    for entry in stages:
        seconds, tokens = entry.get("seconds"), entry.get("tokens")
        table.add_row(
            str(entry["step"]),
            entry["stage"],
            _plain(seconds, 1),
            "" if tokens is None else f"{tokens:,.0f}",
            f"{tokens / seconds:,.0f}" if tokens and seconds else "",
        )
    return table


def _idle_table(iterations: list[dict[str, Any]]) -> Table:
    groups = list(dict.fromkeys(name for entry in iterations for name in entry if name != "iteration"))
    table = _table("Idle share of each group of actors, evaluations included", "iteration", *groups)
    for entry in iterations:
        table.add_row(str(entry["iteration"]), *(_percent(entry.get(group)) for group in groups))
    return table


def _plain(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _spread(statistic: dict[str, Any], digits: int = 3) -> str:
    sd = statistic["sd"]
    return _plain(statistic["mean"], digits) + ("" if sd is None else f" ± {sd:.{digits}f}")


def _perplexity(nats: float | None) -> str:
    return "" if nats is None else f"{perplexity(nats):#.4g}"


def _perplexities(nats: dict[str, Any]) -> str:
    return "" if nats["low"] is None else f"{_perplexity(nats['low'])} to {_perplexity(nats['high'])}"


def _bounds(change: dict[str, Any]) -> str:
    return "" if change["low"] is None else f"{change['low']:+.3f} to {change['high']:+.3f}"
