"""A cluster of fake engines and ranks, with a real annotator and evaluator, on a real local Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_engine
import fake_rank
import fakes
import ray.cloudpickle
from shared_ray import SharedRay

from actors.groups import RolloutGroup
from maskdpo_ray.annotation import protocol as annotators
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config.schema import (
    AnnotationConfig,
    ClusterConfig,
    Config,
    EvalConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    SavingsConfig,
    TrainConfig,
)
from maskdpo_ray.evaluation.evaluators import protocol as evaluators
from maskdpo_ray.records import Failed, Policy
from maskdpo_ray.stages.protocols import ActorGroups

MAX_IN_FLIGHT = 4
SAVINGS = SavingsConfig(cut_tails=False, lean_layers=False)
ONE_ANNOTATOR = AnnotationConfig(num_actors=1, max_in_flight=2)

# Worker processes don't have tests/ on their path: the fakes travel to them by value.
for module in (fakes, fake_engine, fake_rank):
    ray.cloudpickle.register_pickle_by_value(module)


def config_for(tmp_path: Path, annotation: AnnotationConfig = ONE_ANNOTATOR, **cluster: Any) -> Config:
    room = {"cpus_per_engine": 0.1, "cpus_per_rank": 0.1, "start_timeout_s": 120, "step_timeout_s": 60}
    return Config(
        run=RunConfig(dir=str(tmp_path), seed=3),
        model=ModelConfig(model_name_or_path=str(tmp_path / "model")),
        rollout=RolloutConfig(num_engines=2, n_samples_per_prompt=3, max_in_flight=MAX_IN_FLIGHT),
        annotation=annotation,
        eval=EvalConfig(evaluator="factscore"),
        train=TrainConfig(num_ranks=2, max_epochs=2, batch_size=4, micro_batch_size=2),
        savings=SAVINGS,
        cluster=ClusterConfig(**{**room, **cluster}),
    )


MINE = """
import os
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.records import NO_FACT, Annotation, Sentence

class Odd(Exception):
    # It can be pickled, but not unpickled.
    def __init__(self, one, other):
        super().__init__(f"{one} {other}")

class Judge:
    def __init__(self, died=None):
        self.died, self.table = died, os.urandom(1_000_000)

    def check(self, question): pass

    def start(self): pass

    def annotate(self, items):
        if self.died and not os.path.exists(self.died):
            open(self.died, "w").close()
            os._exit(1)
        behaviour = items[0][0].id.partition("/")[0]
        if behaviour == "raises":
            raise KeyError("no such\\nentry")
        if behaviour == "odd":
            raise Odd("two", "words")
        if behaviour == "exits":
            raise SystemExit(3)
        if behaviour == "kills":
            os._exit(1)
        if behaviour == "nothing":
            return []
        if behaviour == "config":
            raise ConfigError("annotation.options.key: expected one")
        me = f"{os.getpid()}"
        return [
            Annotation(a.question_id, a.sample, (Sentence(0, len(a.text), NO_FACT, evidence=me),)) for _, a in items
        ]
"""
"""The module of an annotator that says in its labels which process it is; a question's name decides how it fails."""


@dataclass
class Running:
    """A started cluster and what its fakes wrote down."""

    config: Config
    groups: ActorGroups
    initial: Policy
    tmp_path: Path

    def notes(self, kind: str, event: str, since: int = 0) -> list[dict[str, Any]]:
        lines = (self.tmp_path / f"{kind}.jsonl").read_text().splitlines()[since:]
        return [note for note in map(json.loads, lines) if note["event"] == event]

    def count(self, kind: str) -> int:
        return len((self.tmp_path / f"{kind}.jsonl").read_text().splitlines())

    def policy(self, version: int, folder: str = "") -> Policy:
        return fakes.write_policy(self.tmp_path / (folder or f"policy-{version}"), version, f"{version}".encode())

    def answered(
        self, names: Sequence[str], policy: Policy, timeout_s: float | None = None, start_s: float = 120
    ) -> dict[str, Any]:
        """Versions of the answers by question, or the error of one that failed, once all are there."""
        group = self.groups.engines
        if timeout_s is not None:
            cluster = dataclasses.replace(self.config.cluster, step_timeout_s=timeout_s, start_timeout_s=start_s)
            group = RolloutGroup(
                dataclasses.replace(self.config, cluster=cluster), group.pool.handles, fakes.CharChat()
            )
        found: dict[str, Any] = {}
        for item in group.stream([fakes.question(name) for name in names], policy, fakes.sampling(3), "train"):
            is_failed = isinstance(item, Failed)
            found[item.question.id] = item.error if is_failed else [rollout.policy_version for rollout in item.rollouts]
        return found


@contextmanager
def started(tmp_path: Path, shared: SharedRay) -> Iterator[Running]:
    """Two engines, an annotator, an evaluator and two ranks; at the end no process of theirs may be left."""
    config = config_for(tmp_path)
    initial = fakes.write_policy(tmp_path / "model", 0, b"initial")
    engine_log, rank_log = str(tmp_path / "engine.jsonl"), str(tmp_path / "rank.jsonl")
    engine = type("Engine", (fake_engine.FakeEngine,), {"log": engine_log, "meeting": rank_log})
    rank = type("Rank", (fake_rank.FakeRank,), {"log": rank_log})
    with Cluster(config, engine=engine, rank=rank) as cluster:
        groups = cluster.start(initial, fakes.CharChat(), annotators.build("facts"), evaluators.build("factscore"))
        running = Running(config, groups, initial, tmp_path)
        yield running
    assert shared.actors_left() == []
    assert len(running.notes("rank", "close")) == 2
