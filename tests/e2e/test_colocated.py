"""`cluster.colocate` on a CPU, a real engine and a real rank: no vLLM process while it trains, and the same bytes."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.cloudpickle
import tiny_run

from actors import weights
from actors.training import TrainingRank
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config import file as config_file
from maskdpo_ray.loop import Loop
from maskdpo_ray.stages import preflight
from maskdpo_ray.store import run_folder

pytestmark = pytest.mark.timeout(900)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't have tests/ on their path


class Watching(TrainingRank):
    """Notes before each step what the engines' processes are."""

    log = ""

    def train_step(self, batch: Any) -> dict[str, float]:
        titles = []
        for process in psutil.Process().parent().children(recursive=True):
            with suppress(psutil.Error):  # it has ended, and takes no memory
                titles += process.cmdline()[:1]
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(sorted(title for title in titles if title.startswith("VLLM::"))) + "\n")
        return super().train_step(batch)


def run(folder: Path, config: Path, colocate: bool) -> tuple[dict[str, Any], list[list[str]]]:
    """(files that the run made, without times; vLLM's processes at each step)."""
    found = config_file.build(config_file.read_values(config)[0], config)
    name = "colocated" if colocate else "apart"
    found = replace(
        found,
        run=replace(found.run, dir=str(folder), name=name, iterations=1),
        cluster=replace(found.cluster, colocate=colocate, threads=1, address="local"),
    )
    prepared, log = preflight.check(found), folder / f"{name}.jsonl"
    rank = type("Rank", (Watching,), {"log": str(log)})
    initial = weights.publish(found.model.model_name_or_path, 0)
    with run_folder.open_run(found) as (made, tracker), Cluster(found, rank=rank) as cluster:
        groups = cluster.start(initial, prepared.chat, prepared.annotator, prepared.evaluator)
        Loop(found, prepared.train, prepared.evaluation, prepared.chat, initial, groups, made, tracker).run()
    path = folder / name
    files = [*path.glob("*/policy/*.safetensors"), *path.glob("*/*questions.jsonl"), *path.glob("eval_*/*.json")]
    contents = {str(file.relative_to(path)): file.read_bytes() for file in files}
    contents = {n: sorted(c.splitlines()) if n.endswith("jsonl") else c for n, c in contents.items()}
    return contents, [json.loads(line) for line in log.read_text().splitlines()]


def test_the_engine_is_away_while_the_rank_trains_and_nothing_else_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = tiny_run.write_config(tmp_path)
    apart, beside = run(tmp_path, config, colocate=False)
    colocated, alone = run(tmp_path, config, colocate=True)
    assert len(beside) == len(alone) >= 2
    assert all(any("Worker" in title or "Engine" in title for title in titles) for titles in beside)
    assert alone == [[]] * len(alone)
    assert any(name.endswith("model.safetensors") for name in apart)
    assert any(name.startswith("eval_001/") for name in apart)  # by the engine that woke with the new policy
    assert colocated == apart
