"""The summary of a run: `build` collects it from the run folder, `render` shows it as tables.

Read from the folder: config.yaml, eval_*/{heldout,transfer}.json, iter_*/pairs-summary.json
({"questions", "pairs", "drops": {reason: count}, "mixture": {name: share}}) and metrics.jsonl.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskdpo_ray.evaluation import Evaluation, compare
from maskdpo_ray.report.remarks import remarks

SPLITS = {"heldout": "Held-out topics", "transfer": "Transfer domain"}


def build(run_folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything the tables show, as JSON values: what summary.json holds."""
    folder = Path(run_folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    seed, samples = config["run"]["seed"], config["eval"]["bootstrap_samples"]
    evaluations = {split: _evaluations(folder, split, seed, samples) for split in SPLITS}
    evaluations = {split: versions for split, versions in evaluations.items() if versions}
    return {
        "run": config["run"]["name"],
        "folder": str(folder),
        "evaluations": evaluations,
        "pairs": [{"iteration": int(file.parent.name.removeprefix("iter_")), **json.loads(file.read_text(encoding="utf-8"))}
                  for file in sorted(folder.glob("iter_*/pairs-summary.json"))],
        **_usage(folder / "metrics.jsonl"),
        "remarks": remarks(evaluations),
        "policies": [str(path.parent) for path in sorted(folder.glob("iter_*/policy/config.json"))],
    }


def _evaluations(folder: Path, split: str, seed: int, samples: int) -> list[dict[str, Any]]:
    versions, initial = [], None
    for file in sorted(folder.glob(f"eval_*/{split}.json")):
        value = json.loads(file.read_text(encoding="utf-8"))
        evaluation = Evaluation.from_json(value)
        initial = initial or evaluation
        sums = value.pop("topic_sums")  # stays in its own file
        gain = None if evaluation is initial else compare(initial, evaluation, seed=seed, bootstrap_samples=samples)
        versions.append({"version": int(file.parent.name.removeprefix("eval_")), "topics": len(sums), **value,
                         "gain": None if gain is None else gain.to_json()["metrics"]})
    return versions


def _usage(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Seconds and tokens per step and stage, idle share per iteration and group of actors, as far as logged."""
    stages: dict[tuple[int, str], dict[str, Any]] = {}
    idle: dict[int, dict[str, Any]] = {}
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for line in lines:
        record = json.loads(line)
        step = record["step"]
        for key, value in record.items():
            group, _, name = key.partition("/")
            if value is None:
                continue
            if group == "idle":
                idle.setdefault(step, {"iteration": step})[name] = value
            elif group in ("timing", "tokens"):
                name, field = (name.removesuffix("_s"), "seconds") if group == "timing" else (name, "tokens")
                entry = stages.setdefault((step, name), {"step": step, "stage": name})
                entry[field] = entry.get(field, 0) + value  # a resumed stage adds its part
    return {"stages": list(stages.values()), "idle": list(idle.values())}


def render(summary: dict[str, Any], width: int = 80, color: bool = False) -> str:
    """The tables as text, at most `width` columns (80 or more), with colour codes only when asked for."""
    text = io.StringIO()
    _print(summary, Console(file=text, width=width, no_color=not color, force_terminal=color, highlight=False))
    return text.getvalue()


def show(summary: dict[str, Any], file: TextIO = sys.stdout) -> None:
    """Print the tables; colour only on a terminal."""
    _print(summary, Console(file=file, highlight=False))


def _print(summary: dict[str, Any], console: Console) -> None:
    console.print(f"Run {summary['run']}", style="bold", markup=False)
    for split, versions in summary["evaluations"].items():
        tables = [_scores(split, versions), _contents(versions)]
        if len(versions) > 1:
            tables.append(_changes(versions[-1]))
        if any(version["kinds"] for version in versions):
            tables.append(_kinds(versions))
        for table in tables:
            console.print(table, Text(), sep="\n")
    if summary["pairs"]:
        console.print(_pairs(summary["pairs"]), Text(), sep="\n")
    if summary["stages"]:
        console.print(_stage_table(summary["stages"]), Text(), sep="\n")
    if summary["idle"]:
        console.print(_idle_table(summary["idle"]), Text(), sep="\n")
    if summary["remarks"]:
        console.print("In words", style="bold")
    for remark in summary["remarks"]:
        console.print(f"* {remark}", markup=False)
    folder = summary["folder"]
    console.print(f"\nResults: {folder}\n  summary.json, metrics.jsonl (over time), ledger.jsonl (what is committed)\n"
                  "  eval_*/ (answers with labels, statistics), iter_*/ (rollouts, labels, pairs)", markup=False, soft_wrap=True)
    for policy in summary["policies"]:
        console.print(f"  policy: {policy}", markup=False, soft_wrap=True)


def _table(title: str, *columns: str, text_columns: int = 1, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left",
                  pad_edge=False, title_style="bold", caption_style="")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text_columns else "right")
    return table


def _name(version: int) -> str:
    return "before" if version == 0 else f"after {version}"


def _scores(split: str, versions: list[dict[str, Any]]) -> Table:
    first = versions[0]
    table = _table(f"{SPLITS[split]}: factuality ({first['topics']} topics, {first['questions']} questions, "
                   f"{first['replications']} answers each)",
                   "policy", "score", "gain", "95% interval", "pooled score",
                   caption="score: correct sentences / sentences, mean over answers; pooled: correct facts / facts. "
                           "±: standard deviation over the replications. Interval: paired bootstrap over topics.")
    for version in versions:
        change = version["gain"] and version["gain"]["score"]
        table.add_row(_name(version["version"]), _spread(version["metrics"]["score"]),
                      _signed(change["gain"]) if change else "", _bounds(change) if change else "",
                      _spread(version["metrics"]["pooled_score"]))
    return table


def _contents(versions: list[dict[str, Any]]) -> Table:
    table = _table("What an answer holds", "policy", "correct", "incorrect", "sentences", "tokens", "nothing", "cut off",
                   caption="correct, incorrect: facts. nothing: share of answers that say nothing checkable.")
    for version in versions:
        metrics = version["metrics"]
        table.add_row(_name(version["version"]), _spread(metrics["correct_facts"], 2), _spread(metrics["incorrect_facts"], 2),
                      _plain(metrics["sentences"]["mean"], 2), _plain(metrics["tokens"]["mean"], 1),
                      _percent(metrics["nothing_checkable"]["mean"]), _percent(metrics["cut_off"]["mean"]))
    return table


_SHOWN = {
    "score": "score", "pooled_score": "pooled score", "correct_facts": "correct facts", "incorrect_facts": "incorrect facts",
    "contradictory": "  contradictory", "unverifiable": "  unverifiable", "no_fact": "sentences without a fact",
    "unparsed": "unparsed", "sentences": "sentences", "tokens": "tokens", "cut_off": "cut off",
    "nothing_checkable": "nothing checkable",
}
_ONLY_IF_SEEN = ("contradictory", "unverifiable", "no_fact", "unparsed")


def _changes(last: dict[str, Any]) -> Table:
    table = _table(f"Change from before to {_name(last['version'])}, per answer", "", "before", "after", "gain", "95% interval")
    for metric, label in _SHOWN.items():
        change = last["gain"][metric]
        if metric in _ONLY_IF_SEEN and not (change["before"] or change["after"]):
            continue
        table.add_row(label, _plain(change["before"]), _plain(change["after"]), _signed(change["gain"]), _bounds(change))
    return table


def _kinds(versions: list[dict[str, Any]]) -> Table:
    first, last = versions[0], versions[-1]
    table = _table("By kind of fact, per answer", "kind", "correct before", "after", "incorrect before", "after")
    nothing = {"correct": 0.0, "incorrect": 0.0}
    for kind in sorted({*first["kinds"], *last["kinds"]}):
        before, after = first["kinds"].get(kind, nothing), last["kinds"].get(kind, nothing)
        table.add_row(kind, *(_plain(side[label], 2) for label in ("correct", "incorrect") for side in (before, after)))
    return table


def _pairs(iterations: list[dict[str, Any]]) -> Table:
    shares = list(dict.fromkeys(name for entry in iterations for name in entry["mixture"]))
    dropped = [f"dropped in iteration {entry['iteration']}: " +
               (", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in entry["drops"].items()) or "none")
               for entry in iterations]
    table = _table("Pairs", "iteration", "questions", "pairs", *(name.replace("_", " ") for name in shares),
                   caption="\n".join(dropped))
    for entry in iterations:
        table.add_row(str(entry["iteration"]), str(entry["questions"]), str(entry["pairs"]),
                      *(_plain(entry["mixture"].get(name), 3) for name in shares))
    return table


def _stage_table(stages: list[dict[str, Any]]) -> Table:
    table = _table("Stages", "step", "stage", "seconds", "tokens", "tokens/s", text_columns=2,
                   caption="step: the iteration; of an evaluation, the policy (0: before training).")
    for entry in stages:
        seconds, tokens = entry.get("seconds"), entry.get("tokens")
        table.add_row(str(entry["step"]), entry["stage"], _plain(seconds, 1), "" if tokens is None else f"{tokens:,.0f}",
                      f"{tokens / seconds:,.0f}" if tokens and seconds else "")
    return table


def _idle_table(iterations: list[dict[str, Any]]) -> Table:
    groups = list(dict.fromkeys(name for entry in iterations for name in entry if name != "iteration"))
    table = _table("Idle share of each group of actors", "iteration", *groups)
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


def _bounds(change: dict[str, Any]) -> str:
    return "" if change["low"] is None else f"{change['low']:+.3f} to {change['high']:+.3f}"
