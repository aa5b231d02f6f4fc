"""The summary of a run, or of one evaluation: `build` collects it, `render` and `show` are in tables.py.

Read from the folder: config.yaml, eval_*/{heldout,transfer}{,-judged}.json, iter_*/pairs-summary.json
({"questions", "pairs", "drops": {reason: count}, "mixture": {name: share}}) and metrics.jsonl.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import RunFolderError, shown
from maskdpo_ray.evaluation import judged_metrics, metrics
from maskdpo_ray.evaluation.intervals import Gain
from maskdpo_ray.evaluation.judged_metrics import JudgedEvaluation
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import PairsSummary
from maskdpo_ray.report.remarks import remarks
from maskdpo_ray.report.tables import render, show
from maskdpo_ray.store import files, fingerprint
from maskdpo_ray.store.ledger import encode_line

SPLITS = ("heldout", "transfer")
__all__ = ["build", "render", "show"]


@dataclass(frozen=True)
class Evaluated:
    """Where the evaluation of a policy lies."""

    name: str
    """What the tables call the policy."""
    version: int
    folder: Path
    """Its eval_*."""


def build(
    run_folder: str | os.PathLike[str], evaluated: Sequence[Evaluated] | None = None, splits: Sequence[str] = SPLITS
) -> dict[str, Any]:
    """Everything the tables show, as JSON values: what summary.json holds.

    The gains are over the first of `evaluated`, by default all policies of the run.

    Raises RunFolderError naming a file, and its line or field, that is missing or damaged.
    """
    folder = Path(run_folder)
    file = folder / "config.yaml"
    config = fingerprint.read_config(file)
    if config is None:
        raise RunFolderError(f"{file}: expected the config of a run, got none")
    name, seed = (
        fingerprint.config_field(file, config, "run.name", str),
        fingerprint.config_field(file, config, "run.seed", int),
    )
    samples = fingerprint.config_field(file, config, "eval.bootstrap_samples", int)
    if evaluated is None:
        numbered = _numbered(folder, "eval", "")
        evaluated = [Evaluated(f"after {version}" if version else "before", version, at) for version, at in numbered]
    evaluations = {split: _evaluations(folder, evaluated, split, seed, samples) for split in splits}
    evaluations = {split: versions for split, versions in evaluations.items() if versions}
    return {
        "run": name,
        "folder": str(folder),
        "evaluations": evaluations,
        "pairs": [
            {"iteration": number, **asdict(files.read_json(file, PairsSummary))}
            for number, file in _numbered(folder, "iter", "pairs-summary.json")
        ],
        **_usage(folder / "metrics.jsonl"),
        "remarks": [*_off_policy(config), *remarks(evaluations)],
        "policies": [str(file.parent) for _, file in _numbered(folder, "iter", "policy/config.json")],
    }


def _off_policy(config: dict[str, Any]) -> list[str]:
    if not config.get("rollout", {}).get("ahead"):  # runs of earlier versions have no such option
        return []
    return ["from iteration 1 on the pairs are of the policy before the newest (rollout.ahead): NOT ON-POLICY"]


def _numbered(folder: Path, kind: str, name: str) -> list[tuple[int, Path]]:
    """(i, the file `name` of `kind`_i) in the order of i; other folders beside them are the user's."""
    found = [
        (file.relative_to(folder).parts[0].removeprefix(f"{kind}_"), file) for file in folder.glob(f"{kind}_*/{name}")
    ]
    return sorted((int(number), file) for number, file in found if number.isdecimal())


def _evaluations(
    folder: Path, evaluated: Sequence[Evaluated], split: str, seed: int, samples: int
) -> list[dict[str, Any]]:
    """In the order of `evaluated`; what others than the annotator found is under "judged"."""
    versions = _versions(evaluated, split, Evaluation, metrics.compare, seed, samples)
    by_second = _versions(evaluated, f"{split}-judged", JudgedEvaluation, judged_metrics.compare, seed, samples)
    if not by_second:
        return versions
    both = [[entry["version"] for entry in entries] for entries in (versions, by_second)]
    if both[0] != both[1]:
        raise RunFolderError(f"{folder}: expected {split}-judged.json of policies {both[0]}, got those of {both[1]}")
    for entry, second in zip(versions, by_second, strict=True):
        entry["judged"] = {
            name: second[name] for name in ("evaluator", "perplexity_model", "metrics", "gain", "unparsed_example")
        }
    return versions


def _versions(
    evaluated: Sequence[Evaluated], name: str, kind: type[Any], compare: Callable[..., Gain], seed: int, samples: int
) -> list[dict[str, Any]]:
    versions, initial = [], None
    for policy in evaluated:
        file = policy.folder / f"{name}.json"
        if not os.path.isfile(file):
            continue
        result = files.read_json(file, kind)
        value = json.loads(encode_line(result))
        initial = initial or result
        sums = value.pop("topic_sums")  # stays in its own file
        try:
            gain = None if result is initial else compare(initial, result, seed=seed, bootstrap_samples=samples)
        except ValueError as error:
            raise RunFolderError(f"{file}: {error}") from error
        change = None if gain is None else gain.to_json()["metrics"]
        entry = {"name": policy.name, "version": policy.version, "topics": len(sums), **value, "gain": change}
        versions.append(entry)
    return versions


def _usage(file: Path) -> dict[str, Any]:
    """Seconds and tokens per step and stage, idle share per iteration and group of actors, restarts per group."""
    stages: dict[tuple[int, str], dict[str, Any]] = {}
    idle: dict[int, dict[str, Any]] = {}
    restarts: dict[str, int] = {}
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        record = _metrics(line, f"{file}, line {number}")
        step = record["step"]
        for key, value in record.items():
            group, _, name = key.partition("/")
            if value is None:
                continue
            if group == "idle":
                idle.setdefault(step, {"iteration": step})[name] = value
            elif group == "restarts":
                restarts[name] = restarts.get(name, 0) + value
            elif group in ("timing", "tokens"):
                name, field = (name.removesuffix("_s"), "seconds") if group == "timing" else (name, "tokens")
                entry = stages.setdefault((step, name), {"step": step, "stage": name})
                entry[field] = entry.get(field, 0) + value  # a resumed stage adds its part
    return {"stages": list(stages.values()), "idle": list(idle.values()), "restarts": restarts}


def _metrics(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{where}: expected JSON, got {line[:60]!r}") from error
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise RunFolderError(f"{where}: expected an object with a step, got {line[:60]!r}")
    for name, value in record.items():
        try:
            is_number = value is None or math.isfinite(value)
        except (TypeError, OverflowError):  # an int that no float can hold
            is_number = False
        if not is_number:
            raise RunFolderError(f"{where}: {name}: expected a number, got {shown(value)}")
    return record
