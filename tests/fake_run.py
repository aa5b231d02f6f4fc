"""A run of the whole loop over `fakes`, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
from fakes import CharChat, Events

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    SavingsConfig,
    TrainConfig,
)
from maskdpo_ray.loop import Loop
from maskdpo_ray.records import Question, to_json
from maskdpo_ray.stages.choose import is_finished
from maskdpo_ray.stages.given_sources import GivenSources
from maskdpo_ray.stages.protocols import ActorGroups
from maskdpo_ray.store.question_log import log_path, read_questions
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

ORDINARY = ("a", "b", "c", "d", "e")
DROPPED = ("same/x", "cut/x", "garbled/x")
HELDOUT, TRANSFER = ("h1", "h2"), ("t1",)
ITERATIONS = 2


def config_for(
    tmp_path: Path,
    which: str = "previous",
    iterations: int = ITERATIONS,
    ahead: int = 0,
    savings: SavingsConfig | None = None,
    **of_run: Any,
) -> Config:
    return Config(
        savings=savings or SavingsConfig(),
        run=RunConfig(name="run", dir=str(tmp_path), iterations=iterations, seed=1, **of_run),
        model=ModelConfig(model_name_or_path=str(tmp_path / "model")),
        data=DataConfig(num_dev_topics=1 if of_run else 0),
        rollout=RolloutConfig(n_samples_per_prompt=4, ahead=ahead),
        train=TrainConfig(reference=which, max_epochs=2, batch_size=2, save_steps=2),
        eval=EvalConfig(n_samples_per_prompt=2, bootstrap_samples=100),
    )


def run(
    tmp_path: Path,
    events: Events | None = None,
    *,
    which: str = "previous",
    names: tuple[str, ...] = ORDINARY + DROPPED,
    shuffle: int | None = None,
    content: bytes = b"initial",
    iterations: int = ITERATIONS,
    ahead: int = 0,
    savings: SavingsConfig | None = None,
    groups_of: Callable[[Config, Events, int | None], ActorGroups] = fakes.groups,
    dev: Sequence[Question] = (),
    sections: Mapping[str, Any] | None = None,
    given: GivenSources | None = None,
    **of_run: Any,
) -> Events:
    """One process's life: a loop over a new or old run folder, until it ends or `events` stops it.

    `dev` are development questions; `sections` replace the config's; `of_run` are further options of the section `run`.
    """
    events = Events() if events is None else events
    config = replace(config_for(tmp_path, which, iterations, ahead, savings, **of_run), **(sections or {}))
    resolved = cli.resolved(config)
    initial = fakes.write_policy(config.model.model_name_or_path, 0, content)
    evaluation = {"heldout": [fakes.question(n) for n in HELDOUT], "transfer": [fakes.question(n) for n in TRANSFER]}
    evaluation |= {"dev": dev} if dev else {}
    path = tmp_path / "run"
    with RunFolder.open(path, resolved, {}) as folder, Tracker(path, config.logger, resolved) as tracker:
        groups = groups_of(config, events, shuffle)
        questions = [fakes.question(name) for name in names]
        outside = (initial, groups, folder, tracker, given or GivenSources())
        Loop(config, questions, evaluation, CharChat(), *outside).run()
        assert is_finished(config, folder, evaluation)
    return events


def pairs_of(path: Path, iteration: int) -> list[dict[str, Any]]:
    questions = read_questions(path / "run" / log_path(iteration))
    return [to_json(pair) for question in questions for pair in question.preference_pairs()]


def metrics_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "run/metrics.jsonl").read_text().splitlines()]


def results(path: Path) -> dict[str, Any]:
    """All that a run computed: every file but the ledger and timings, without the order of questions."""
    found: dict[str, Any] = {}
    for file in sorted((path / "run").rglob("*")):
        name = str(file.relative_to(path / "run"))
        if file.is_dir() or name in ("ledger.jsonl", "metrics.jsonl", "run.lock", "config.yaml"):
            continue
        if file.suffix == ".jsonl":
            found[name] = sorted(file.read_text().splitlines())
        else:
            found[name] = json.loads(file.read_text()) if file.suffix == ".json" else file.read_bytes()
    return found


def committed(path: Path) -> set[tuple[str, str]]:
    """(log, question) of every question that the logs hold."""
    return {
        (str(log.relative_to(path / "run")), question.question_id)
        for log in (path / "run").glob("*_*/*questions.jsonl")
        for question in read_questions(log)
    }


def log_name(purpose: str, version: int) -> str:
    """File in which a policy's answers for this purpose are committed."""
    if purpose == "atoms":
        return log_path(version, source=purpose)
    if purpose in ("train", "ahead"):
        return log_path(version + (purpose == "ahead"))
    return log_path(version, purpose.removeprefix("evaluate-"))
