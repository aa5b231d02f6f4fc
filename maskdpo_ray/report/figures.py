"""The pictures of a run, or of several side by side: which figures of its files each of them draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.report import plots
from maskdpo_ray.report.plots import Curve, Plot, Span
from maskdpo_ray.store import metrics_log

Entry = dict[str, Any]
_EVALUATED = {
    "score": "Factuality score",
    "recall": "Recall of asked facts",
    "correct_facts": "Correct facts per answer",
    "incorrect_facts": "Incorrect facts per answer",
    "sentences": "Sentences per answer",
}
_TRAINED = {
    "train/loss": "Loss",
    "margin": "Reward margin",
    "train/accuracy": "Share of pairs in order",
    "train/grad_norm": "Gradient norm",
}
_SPLITS = {"heldout": "held-out", "transfer": "transfer", "dev": "development"}
_LANES = {"collect": "answer and label", "reference": "reference log-probs", "train": "train", "sync": "weight sync"}


@dataclass(frozen=True)
class Steps:
    """metrics.jsonl as far as pictures need it."""

    curves: dict[str, tuple[list[float], list[float | None]]]
    """Metric of training -> (optimizer steps, values)."""
    spans: list[Span]
    """Finished stages over time."""
    starts: list[float]
    """Optimizer steps with which an iteration begins, the first one left out."""

    @classmethod
    def read(cls, folder: Path) -> Steps:
        """Raises RunFolderError for a line that is none of `metrics_log`."""
        found: dict[str, tuple[list[float], list[float | None]]] = {}
        spans: list[Span] = []
        began: float | None = None
        starts: list[float] = []
        for record in metrics_log.read(folder / "metrics.jsonl"):
            rewards = record.get("train/chosen_reward"), record.get("train/rejected_reward")
            if rewards[0] is not None and rewards[1] is not None:
                record["margin"] = rewards[0] - rewards[1]
            for name in _TRAINED:
                if name in record:
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(record["step"])
                    values.append(record[name])
            if "timing/train_s" in record and "train/loss" in found:
                starts.append(found["train/loss"][0][-1] + 0.5)
            for name, seconds in record.items():
                lane = _lane(name)
                if lane is not None and seconds is not None:
                    start = record["time"] - seconds
                    began = start if began is None else began
                    spans.append(Span(lane, start - began, seconds))
        ends = [step for step in starts if step < found["train/loss"][0][-1]] if starts else []
        return cls(found, _without_pauses(spans), ends)


def _lane(name: str) -> str | None:
    if not name.startswith("timing/"):
        return None
    stage = name.removeprefix("timing/").removesuffix("_s")
    return "evaluate" if stage.startswith("evaluate-") else _LANES.get(stage)


def _without_pauses(spans: Sequence[Span]) -> list[Span]:
    """The spans as if a run that was interrupted had continued at once: time without work is left out."""
    found: list[Span] = []
    shift = end = 0.0
    for span in sorted(spans, key=lambda span: span.start):
        if span.start - end > 60:
            shift += span.start - end - 1
        end = max(end, span.start + span.seconds)
        found.append(Span(span.row, span.start - shift, span.seconds))
    return found


def evaluations(summaries: Mapping[str, Entry]) -> list[Plot]:
    """Metrics of each policy on held-out topics and beside them; of several runs, on held-out topics alone."""
    found = []
    for metric, title in _EVALUATED.items():
        if len(summaries) == 1:
            summary = next(iter(summaries.values()))
            lines, kept = _of_splits(summary, metric), summary["kept"]
            ring = kept["version"] if kept is not None and "heldout" in summary["evaluations"] else None
        else:
            held = {name: each["evaluations"].get("heldout", []) for name, each in summaries.items()}
            lines, ring = [_curve(name, versions, metric) for name, versions in held.items() if versions], None
        lines = [line for line in lines if any(value is not None for value in line.y)]
        if lines:
            found.append(plots.curves(title, lines, "policy", whole_x=True, ring=ring))
    return found


def _of_splits(summary: Entry, metric: str) -> list[Curve]:
    lines = [_curve(_SPLITS.get(split, split), each, metric) for split, each in summary["evaluations"].items()]
    held = summary["evaluations"].get("heldout", [])
    judged = [each["judged"] | {"version": each["version"]} for each in held if "judged" in each]
    if metric == "score" and judged and judged[0]["evaluator"] is not None:
        lines.append(_curve("second evaluator", judged, metric))
    return lines


def _curve(name: str, versions: Sequence[Entry], metric: str) -> Curve:
    found = [each["metrics"][metric] for each in versions]
    ends = [[each[end] for each in found] for end in ("mean", "low", "high")]
    return Curve(name, [each["version"] for each in versions], *ends)


def training(steps: Mapping[str, Steps]) -> list[Plot]:
    """Loss, margins, accuracy and gradient norm by optimizer step."""
    found = []
    for name, title in _TRAINED.items():
        lines = [Curve(run, *each.curves[name]) for run, each in steps.items() if name in each.curves]
        if lines:
            lines = lines if len(steps) > 1 else [Curve(title.lower(), lines[0].x, lines[0].y)]
            starts = next(iter(steps.values())).starts if len(steps) == 1 else []
            found.append(plots.curves(title, lines, "optimizer step", marks=starts))
    return found


def timeline(steps: Steps) -> Plot | None:
    """Stages over time."""
    return plots.timeline("Where the time went", steps.spans) if steps.spans else None


def pairs(summary: Entry) -> Plot | None:
    """Pairs of each iteration, and what was dropped by reason."""
    rows = {
        f"iteration {each['iteration']}": {"pairs": each["pairs"], **_readable(each["drops"])}
        for each in summary["pairs"]
    }
    return plots.stacked("Pairs, and what was dropped", rows, "pairs and drops") if rows else None


def _readable(drops: Mapping[str, int]) -> dict[str, int]:
    return {name.replace("_", " "): count for name, count in drops.items()}


def gaps(found: Mapping[str, Sequence[int]]) -> Plot | None:
    """Pairs by the difference between their scores."""
    if not any(any(counts) for counts in found.values()):
        return None
    num_bins = len(next(iter(found.values())))
    edges = [edge / num_bins for edge in range(num_bins + 1)]
    return plots.histogram(
        "Score gap of the pairs", {name: list(counts) for name, counts in found.items()}, edges, "gap"
    )
