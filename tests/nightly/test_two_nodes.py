"""The main job on a cluster of two Ray nodes, joined by address and submitted as a job: the same answers and pairs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import Driver
from finished_run import Run, arguments, finish
from local_cluster import LocalCluster

pytestmark = pytest.mark.timeout(3600)
ON_TWO_NODES = {"rollout__num_engines": 2, "train__num_ranks": 2, "cluster__threads": 1, "run__iterations": 1}
FILES = ("iter_000/questions.jsonl", "eval_000/heldout-questions.jsonl")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(num_nodes=2, cpus=2) as started:
        yield started


EVERYWHERE = [{"RolloutEngine": 1, "TrainingRank": 1}] * 2


def spread(cluster: LocalCluster) -> list[dict[str, int]]:
    """Engines and ranks by node."""
    return [{kind: node.get(kind, 0) for kind in EVERYWHERE[0]} for node in cluster.actors()]


@pytest.fixture(scope="module")
def joined(cluster: LocalCluster, runs_dir: Path, tiny: Path) -> tuple[Run, list[dict[str, int]]]:
    """`python -m maskdpo_ray.run --cluster.address ...`, whose engines had a worker of vLLM's each; where they were."""
    folder = runs_dir / "joined"
    options = arguments(folder, tiny, cluster__address=cluster.address, **ON_TWO_NODES)
    with Driver(options, runs_dir / "joined.log") as driver:
        driver.wait_for(lambda: (folder / "eval_000" / "heldout.json").exists())
        driver.wait_for(lambda: cluster.vllm_workers() == 2)
        there = spread(cluster)
        return finish(driver, folder), there


@pytest.fixture(scope="module")
def submitted(cluster: LocalCluster, runs_dir: Path, tiny: Path) -> Run:
    """`ray job submit -- python -m maskdpo_ray.run ...`."""
    folder = runs_dir / "submitted"
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--address", cluster.jobs, "--", "python", "-m", "maskdpo_ray.run"]
    with Driver(arguments(folder, tiny, **ON_TWO_NODES), runs_dir / "submitted.log", command) as driver:
        return finish(driver, folder)


def contents(run: Run, name: str) -> list[dict[str, Any]]:
    """In order of question and sample: questions finish in any order."""
    return sorted(run.lines(name), key=lambda line: (line["question_id"], line.get("sample", 0)))


def test_joined(joined: tuple[Run, list[dict[str, int]]]) -> None:
    run, there = joined
    assert run.code == 0, run.output
    assert (run.folder / "summary.json").is_file()
    assert there == EVERYWHERE
    assert run.left == []


def test_submitted(submitted: Run) -> None:
    assert submitted.code == 0, submitted.output
    assert "succeeded" in submitted.output
    assert (submitted.folder / "summary.json").is_file()
    assert submitted.left == []


def test_both_give_the_same(joined: tuple[Run, Any], submitted: Run) -> None:
    for name in FILES:
        assert contents(joined[0], name) == contents(submitted, name), name
    losses = [
        [line["train/loss"] for line in run.lines("metrics.jsonl") if "train/loss" in line]
        for run in (joined[0], submitted)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)


def test_the_cluster_is_as_before(submitted: Run, cluster: LocalCluster) -> None:
    """The runs took their actors with them; the cluster, which isn't theirs, is still there."""
    end = time.monotonic() + 20
    while any(sum(node.values()) for node in spread(cluster)) or cluster.vllm_workers():
        assert time.monotonic() < end, (cluster.actors(), cluster.vllm_workers())
        time.sleep(0.2)
