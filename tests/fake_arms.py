"""Runs of an experiment over `fakes`: each in a folder of its own, which another run may have begun for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fakes
from fake_run import DROPPED, HELDOUT, ORDINARY, TRANSFER
from fakes import Accepting, CharChat, Events

from maskdpo_ray.config import cli
from maskdpo_ray.config.file import Given, build
from maskdpo_ray.config.schema import Config
from maskdpo_ray.loop import Loop
from maskdpo_ray.report import summary
from maskdpo_ray.stages.choose import is_finished
from maskdpo_ray.stages.fork import Beginning
from maskdpo_ray.stages.preflight import Prepared
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

OPTIONS = {
    "run.seed": 1,
    "run.iterations": 2,
    "data.num_dev_topics": 1,
    "rollout.n_samples_per_prompt": 4,
    "train.max_epochs": 2,
    "train.batch_size": 2,
    "train.save_steps": 2,
    "eval.n_samples_per_prompt": 2,
    "eval.bootstrap_samples": 100,
}


def config_of(folder: Path, name: str, options: Mapping[str, Any]) -> Config:
    """The config of a run in `folder`, with `options` by their dotted names over `OPTIONS`."""
    own = {"run.name": name, "run.dir": str(folder), "model.model_name_or_path": str(folder.parent / "model")}
    return build({each: Given(value, each) for each, value in {**OPTIONS, **own, **options}.items()}, folder)


def beginning(config: Config, names: Sequence[str] = ORDINARY + DROPPED) -> Beginning:
    """Inputs of the run of a config: training questions of these names, and always the same held-out ones."""
    initial = fakes.write_policy(config.model.model_name_or_path, 0, b"initial")
    evaluated = {"heldout": HELDOUT, "transfer": TRANSFER} | ({"dev": ("v1",)} if config.data.num_dev_topics else {})
    evaluation = {split: [fakes.question(each) for each in of_split] for split, of_split in evaluated.items()}
    return Beginning(config, initial, Prepared([*map(fakes.question, names)], evaluation, Accepting(), CharChat()))


def run(begun: Beginning, events: Events | None = None) -> Events:
    """One process's life in the run's folder, as `python -m maskdpo_ray.run` has it."""
    events, config = Events() if events is None else events, begun.config
    values = cli.resolved(config)
    with RunFolder.open(begun.path, values) as folder, Tracker(begun.path, config.logger, values) as tracker:
        prepared, groups = begun.prepared, fakes.groups(config, events)
        Loop(config, prepared.train, prepared.evaluation, prepared.chat, begun.initial, groups, folder, tracker).run()
        assert is_finished(config, folder, prepared.evaluation)
        folder.write_json("summary.json", summary.build(begun.path))
    return events


def results(folder: Path) -> dict[str, Any]:
    """All that a run computed: every file but the ledger, timings and the summary of both; logs without their order."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and name not in ("ledger.jsonl", "metrics.jsonl", "run.lock", "config.yaml", "summary.json"):
            found[name] = sorted(file.read_bytes().splitlines()) if file.suffix == ".jsonl" else file.read_bytes()
    return found
