"""A node that is lost with its actors: their questions fail once, and wait for them to start elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.cloudpickle
from ray.cluster_utils import Cluster as Nodes

from actors.dispatch import Dispatcher, Failure, call_each
from actors.pool import Pool
from maskdpo_ray.cluster import Cluster as OwnCluster
from maskdpo_ray.config.schema import ClusterConfig, Config, ModelConfig, RunConfig
from maskdpo_ray.errors import ClusterError

NUM_ITEMS = 6
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't have tests/ on their path


class Worker:
    """Says on which node it works, and takes a moment for it."""

    async def until_gone(self) -> None:
        """See `Pool`."""

    def busy_seconds(self) -> float:
        return 0.0

    def work(self, item: int, size: int) -> tuple[int, str, bytes]:
        time.sleep(0.5)
        return item, ray.get_runtime_context().get_node_id(), bytes(size)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two, the second with what the workers need."""
    nodes = Nodes(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "resources": {"first": 1}}
    )
    nodes.add_node(num_cpus=1, resources={"room": 2})
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def started(*homes: str, start_timeout_s: float = 120) -> Pool:
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1}
    handles = [ray.remote(Worker).options(**options, resources={home: 1}).remote() for home in homes]
    ray.get([handle.busy_seconds.remote() for handle in handles])
    return Pool(handles, "worker", ClusterConfig(start_timeout_s=start_timeout_s, step_timeout_s=60))


def ask(item: int, size: int = 0) -> tuple[str, tuple[Any, ...]]:
    return "work", (item, size)


@pytest.mark.parametrize("size", [0, 2**20])  # a large reply stays in the object store of its node until it is fetched
def test_actors_of_a_lost_node_start_on_another(nodes: Nodes, capfd: pytest.CaptureFixture[str], size: int) -> None:
    """With two actors or with one that has a home: each question fails once at most, and none fails for good."""
    pool = started("room", "room")
    second = nodes.list_all_nodes()[1]
    answers = []
    for item, answer in Dispatcher(pool, partial(ask, size=size), lambda item: item % 2).run(range(NUM_ITEMS), 4):
        assert not isinstance(answer, Failure), answer
        answers.append(answer)
        if len(answers) == 1:
            nodes.remove_node(second, allow_graceful=False)
            nodes.add_node(num_cpus=1, resources={"room": 2})
        assert answer[0] == item and len(answer[2]) == size
    assert sorted(item for item, *_ in answers) == list(range(NUM_ITEMS))
    assert len({node for _, node, _ in answers}) == 2
    assert pool.restarts == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("worker ")]
    assert len(said) == 2 and all("it is restarted" in line for line in said)
    assert call_each(pool, "busy_seconds") == {0: 0.0, 1: 0.0}


def test_the_others_go_on_without_one_that_is_lost(nodes: Nodes) -> None:
    """Work that had its home there goes to them, and nobody waits for it again."""
    pool = started("first", "room", start_timeout_s=5)
    nodes.remove_node(nodes.list_all_nodes()[1], allow_graceful=False)
    answers = list(Dispatcher(pool, ask, lambda item: item % 2).run(range(NUM_ITEMS), 4))
    assert sorted(answer[0] for _, answer in answers) == list(range(NUM_ITEMS))
    assert call_each(pool, "busy_seconds") == {0: 0.0}


def test_somebody_elses_cluster_is_left_alone(nodes: Nodes, tmp_path: Path) -> None:
    """Without an address a run has one of its own, whatever there is on the machine."""
    ray.shutdown()
    with OwnCluster(Config(run=RunConfig(dir=str(tmp_path)), model=ModelConfig("unused"))):
        assert ray.get_runtime_context().gcs_address != nodes.address
        assert len(ray.nodes()) == 1


def test_one_that_finds_no_room_any_more(nodes: Nodes) -> None:
    pool = started("room", "room", start_timeout_s=5)
    nodes.remove_node(nodes.list_all_nodes()[1], allow_graceful=False)
    with pytest.raises(ClusterError, match=r"^worker [01] was lost: did not come back within 5 s \(cluster.start_time"):
        list(Dispatcher(pool, ask).run(range(NUM_ITEMS), 4))
