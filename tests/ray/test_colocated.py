"""Colocated actors on a real local Ray, whose node says that it has two GPUs: their places, rests and failed wakes."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fake_engine
import fake_rank
import fakes
import pytest
import ray
import ray.cloudpickle
from running import Running, config_for
from shared_ray import SharedRay

from actors.placement import Placement
from actors.pool import Pool
from maskdpo_ray.annotation import protocol as annotators
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import Config, VllmConfig
from maskdpo_ray.data import questions
from maskdpo_ray.errors import ActorLost
from maskdpo_ray.evaluation.evaluators import protocol as evaluators
from maskdpo_ray.records import Policy

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as in running.py


def seen() -> dict[str, Any]:
    """GPUs that this process may use, and what a vLLM in it would read."""
    return {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "colocated": os.environ.get("MASKDPO_COLOCATED")}


class Engine(fake_engine.FakeEngine):
    """With a policy whose folder's name holds "sleepy" it does not wake, once."""

    is_awake = True

    def __init__(self, config: Config, policy: Policy, threads: int) -> None:
        super().__init__(config, policy, threads)
        self._note("place", **seen())

    async def rest(self) -> None:
        self._note("rest")
        self.is_awake = False

    async def load(self, policy: Policy, files: Any = None) -> tuple[int, str]:
        if not self.is_awake and "sleepy" in policy.path:
            with suppress(FileExistsError):
                Path(self.log).with_name("did-not-wake").touch(exist_ok=False)
                raise ActorLost("vLLM did not wake: CUDA error: out of memory")
        self.is_awake = True
        return await super().load(policy, files)


class Rank(fake_rank.FakeRank):
    def setup(self, master_addr: str, master_port: int) -> str | None:
        self._note("place", **seen())
        return super().setup(master_addr, master_port)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, cluster_of_all: SharedRay) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("colocated")
    config = config_for(path, device="cuda", colocate=True, gpus_per_annotator=0.5)
    initial = fakes.write_policy(path / "model", 0, b"initial")
    own = {kind.__name__: type(kind.__name__, (kind,), {"log": str(path / name)}) for kind, name in (
        (Engine, "engine.jsonl"), (Rank, "rank.jsonl"))}  # fmt: skip
    with Cluster(config, engine=own["Engine"], rank=own["Rank"]) as cluster:
        groups = cluster.start(initial, fakes.CharChat(), annotators.build("facts"), evaluators.build("factscore"))
        yield Running(config, groups, initial, path)
    assert cluster_of_all.actors_left() == []
    assert ray.is_initialized() is False


def test_engines_and_ranks_have_the_same_gpus(running: Running) -> None:
    for kind in ("engine", "rank"):
        places = running.notes(kind, "place")
        assert sorted(place["gpus"] for place in places) == ["0", "1"]
        assert {place["colocated"] for place in places} == {"1"}
    free = ray.available_resources()
    assert free.get("GPU", 0) == 0  # reserved whole, whatever the shares


def all_back(pool: Pool) -> None:
    while not all(map(pool.is_available, range(len(pool)))):
        pool.await_any(range(len(pool)))


def test_a_failed_wake_is_a_death(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    """The engine is restarted, and then has the policy as the others do; annotators come back by themselves."""
    policy, since = running.policy(1, "sleepy"), running.count("engine")
    answered = running.answered(["q1"], running.initial)
    running.groups.rest()
    assert len(running.notes("engine", "rest", since)) == 2
    running.groups.engines.load(policy)
    (restarted,) = running.notes("engine", "place", since)
    assert restarted["gpus"] in ("0", "1")  # the dead one's
    loads = running.notes("engine", "load", since)
    assert len({load["pid"] for load in loads if load["version"] == 1}) == 2
    assert running.groups.engines.restarts == 1
    assert "vLLM did not wake: CUDA error: out of memory; it is restarted" in capfd.readouterr().err
    all_back(running.groups.engines.pool)
    assert running.answered(["q1"], policy) == {"q1": [1, 1, 1]} != answered
    asked = questions.load("builtin:countries")[:1]  # which the annotator, a real one, knows
    labelled = running.groups.annotators.stream(
        running.groups.engines.stream(asked, policy, fakes.sampling(2), "train")
    )
    assert [item.question.id for item in labelled] == [asked[0].id]


def test_an_engine_of_two_gpus_lies_across_their_bundles(running: Running, tmp_path: Path) -> None:
    """It has none itself: vLLM asks Ray for a share of each."""
    config = config_for(tmp_path, device="cuda", colocate=True)
    rollout, vllm = dataclasses.replace(config.rollout, num_engines=1), VllmConfig(tensor_parallel_size=2)
    plan = Plan(dataclasses.replace(config, rollout=rollout, vllm=vllm))
    placement = object.__new__(Placement)
    placement._places, placement._share = plan.places(), 0.5
    placement._bundles, placement._group = [1, 0], running  # Ray numbers bundles as it likes
    options = placement.options("rollout engines", 0, 0.1)
    assert options["num_gpus"] == 0 and options["scheduling_strategy"].placement_group_bundle_index == 1
    assert options["runtime_env"]["env_vars"] == {
        "MASKDPO_COLOCATED": "1",
        "VLLM_RAY_BUNDLE_INDICES": "1,0",
        "VLLM_RAY_PER_WORKER_GPUS": "0.5",
    }
    assert [placement.options("training ranks", rank, 0.1)["num_gpus"] for rank in (0, 1)] == [0.5, 0.5]
    assert placement.options("annotation actors", 0, 0.25) == {"num_cpus": 0.25, "num_gpus": 0}
