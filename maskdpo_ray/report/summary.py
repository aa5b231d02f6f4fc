"""The summary of a run: `build` collects it from the run folder, `render` and `show` are in tables.py.

Read from the folder: config.yaml, eval_*/{heldout,transfer}.json, iter_*/pairs-summary.json
({"questions", "pairs", "drops": {reason: count}, "mixture": {name: share}}) and metrics.jsonl.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maskdpo_ray import stored_config
from maskdpo_ray.evaluation import Evaluation, compare
from maskdpo_ray.report.remarks import remarks
from maskdpo_ray.report.tables import render, show

SPLITS = ("heldout", "transfer")
__all__ = ["build", "render", "show"]


def build(run_folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything the tables show, as JSON values: what summary.json holds."""
    folder = Path(run_folder)
    config = stored_config.read(folder / "config.yaml")
    seed, samples = config["run"]["seed"], config["eval"]["bootstrap_samples"]
    evaluations = {split: _evaluations(folder, split, seed, samples) for split in SPLITS}
    evaluations = {split: versions for split, versions in evaluations.items() if versions}
    return {
        "run": config["run"]["name"],
        "folder": str(folder),
        "evaluations": evaluations,
        "pairs": [
            {"iteration": int(file.parent.name.removeprefix("iter_")), **json.loads(file.read_text(encoding="utf-8"))}
            for file in sorted(folder.glob("iter_*/pairs-summary.json"))
        ],
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
        versions.append(
            {
                "version": int(file.parent.name.removeprefix("eval_")),
                "topics": len(sums),
                **value,
                "gain": None if gain is None else gain.to_json()["metrics"],
            }
        )
    return versions


def _usage(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Seconds and tokens per step and stage, idle share per iteration and group of actors."""
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
