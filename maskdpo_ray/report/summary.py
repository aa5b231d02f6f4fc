"""The summary of a run, or of one evaluation, as JSON values; `tables` renders it.

Read from the folder: config.yaml, eval_*/{heldout,transfer,dev}{,-judged,-greedy}.json, eval_*/choice.json,
iter_*/pairs-summary.json and metrics.jsonl.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation.choice import Choice
from maskdpo_ray.evaluation.intervals import compare
from maskdpo_ray.evaluation.judged_metrics import JudgedEvaluation
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import PairsSummary, decode, encode_line, from_json, to_json
from maskdpo_ray.report import schema
from maskdpo_ray.report.remarks import remarks
from maskdpo_ray.report.schema import Summary
from maskdpo_ray.report.tables import render, show
from maskdpo_ray.store import files, fingerprint, metrics_log

SPLITS = ("heldout", "transfer", "dev")
__all__ = ["build", "render", "show"]


@dataclass(frozen=True)
class Evaluated:
    """A policy and where its evaluation lies."""

    name: str
    """Name of the policy in the tables."""
    version: int
    folder: Path
    """The policy's `eval_*`."""


def build(
    run_folder: str | os.PathLike[str], evaluated: Sequence[Evaluated] | None = None, splits: Sequence[str] = SPLITS
) -> dict[str, Any]:
    """Everything that the tables show, as in summary.json; gains are over the first of `evaluated`.

    `evaluated` are all policies of the run by default.
    Raises RunFolderError naming a file, and its line or field, that is missing or damaged.
    """
    folder = Path(run_folder)
    file = folder / "config.yaml"
    config = fingerprint.read_config(file)
    if config is None:
        raise RunFolderError(f"{file}: expected the config of a run, got none")
    name = fingerprint.config_field(file, config, "run.name", str)
    draws = {
        "seed": fingerprint.config_field(file, config, "run.seed", int),
        "bootstrap_samples": fingerprint.config_field(file, config, "eval.bootstrap_samples", int),
    }
    choice = None
    if evaluated is None:
        numbered = _numbered(folder, "eval", "")
        evaluated = [Evaluated(f"after {version}" if version else "before", version, at) for version, at in numbered]
        choice = newest_choice(folder)
    found = {split: _evaluations(folder, evaluated, split, draws) for split in splits}
    evaluations = {split: versions for split, versions in found.items() if versions}
    kept = None if choice is None else _kept(folder, choice, evaluations)
    built = {
        "schema_version": schema.VERSION,
        "run": name,
        "folder": str(folder),
        "kept": kept,
        "evaluations": evaluations,
        "pairs": [
            {"iteration": number, **to_json(files.read_json(file, PairsSummary))}
            for number, file in _numbered(folder, "iter", "pairs-summary.json")
        ],
        **_usage(folder / "metrics.jsonl"),
        "remarks": [
            *_off_policy(config),
            *_ended_early(config, choice),
            *remarks({split: each for split, each in evaluations.items() if split != "dev" or kept is None}, kept),
        ],
        "policies": [str(file.parent) for _, file in _numbered(folder, "iter", "policy/config.json")],
    }
    return decode(dict[str, Any], encode_line(from_json(Summary, built)))


def _off_policy(config: dict[str, Any]) -> list[str]:
    if not config.get("rollout", {}).get("ahead"):  # runs of earlier versions have no such option
        return []
    return ["from iteration 1 on the pairs are of the policy before the newest (rollout.ahead): NOT ON-POLICY"]


def _ended_early(config: dict[str, Any], choice: Choice | None) -> list[str]:
    patience, iterations = config["run"].get("patience"), config["run"].get("iterations")
    newest = len(choice.candidates) - 1 if choice else iterations
    if patience is None or newest >= iterations:
        return []
    return [
        f"the run ended after {newest} of {iterations} iterations: {patience} in a row without a better policy on "
        "development topics (run.patience)"
    ]


def newest_choice(folder: Path) -> Choice | None:
    """The newest choice; None of a folder without one, as of a single evaluation."""
    files_found = _numbered(folder, "eval", "choice.json")
    return files.read_json(files_found[-1][1], Choice) if files_found else None


def _kept(folder: Path, choice: Choice, evaluations: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The kept policy, its place and its figures on held-out topics, and how it was chosen."""
    versions = {entry["version"]: entry for entry in evaluations.get("heldout", [])}
    found = versions.get(choice.version)
    if found is None:
        raise RunFolderError(f"{folder}: expected the evaluation of policy {choice.version}, which is kept, got none")
    metrics, gain = found["metrics"], found["gain"]
    return {
        "name": found["name"],
        "policy": str(folder / "policy"),
        **{metric: metrics[metric]["mean"] for metric in ("score", "recall", "correct_facts")},
        "gain": None if gain is None else gain["score"],
        **decode(dict[str, Any], encode_line(choice)),
    }


def _numbered(folder: Path, kind: str, name: str) -> list[tuple[int, Path]]:
    """(i, the file `name` of `kind`_i) in the order of i; other folders beside them are the user's."""
    paths = folder.glob(f"{kind}_*/{name}")
    found = [(file.relative_to(folder).parts[0].removeprefix(f"{kind}_"), file) for file in paths]
    return sorted((int(number), file) for number, file in found if number.isdecimal())


def _evaluations(
    folder: Path, evaluated: Sequence[Evaluated], split: str, draws: dict[str, int]
) -> list[dict[str, Any]]:
    """An entry for each of `evaluated`.

    Under its "judged" are the figures of evaluator and perplexity model, under "greedy" those of greedy answers.
    """
    versions = _versions(evaluated, f"{split}.json", Evaluation, draws)
    greedy = {entry["name"]: entry for entry in _versions(evaluated, f"{split}-greedy.json", Evaluation, draws)}
    for entry in versions:
        if entry["name"] in greedy:
            entry["greedy"] = {name: greedy[entry["name"]][name] for name in ("metrics", "gain")}
    judged = _versions(evaluated, f"{split}-judged.json", JudgedEvaluation, draws)
    if not judged:
        return versions
    both = [[entry["version"] for entry in entries] for entries in (versions, judged)]
    if both[0] != both[1]:
        raise RunFolderError(f"{folder}: expected {split}-judged.json of policies {both[0]}, got those of {both[1]}")
    for entry, second in zip(versions, judged, strict=True):
        entry["judged"] = {
            name: second[name] for name in ("evaluator", "perplexity_model", "metrics", "gain", "unparsed_example")
        }
    return versions


def _versions(
    evaluated: Sequence[Evaluated], name: str, kind: type[Evaluation | JudgedEvaluation], draws: dict[str, int]
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    results: list[Any] = []
    for policy in evaluated:
        file = policy.folder / name
        if not os.path.isfile(file):
            continue
        results.append(files.read_json(file, kind))
        value = decode(dict[str, Any], encode_line(results[-1]))
        topics = len(value.pop("topic_sums"))  # the sums stay in their own file
        gain = None
        try:
            if entries:
                gain = json.loads(encode_line(compare(results[0], results[-1], **draws)))["metrics"]
        except ValueError as error:
            raise RunFolderError(f"{file}: {error}") from error
        entries.append({"name": policy.name, "version": policy.version, "topics": topics, **value, "gain": gain})
    return entries


def _usage(file: Path) -> dict[str, Any]:
    """Seconds and tokens per step and stage, idle share per iteration and group of actors, restarts per group."""
    stages: dict[tuple[int, str], dict[str, Any]] = {}
    idle: dict[int, dict[str, Any]] = {}
    restarts: dict[str, int] = {}
    for record in metrics_log.read(file):
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
