"""The experiments of configs/experiments: each file is read whole, and says how to run it and what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskdpo_ray.config import cli
from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.report.experiments.table import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
TWINS = sorted((FOLDER / "paper").glob("*.yaml"))
OURS = {"quickstart", "tune", "tune_mask"}
"""Experiments of no paper's table."""
PAPERS = ("Mask-DPO", "APEFT", "SMA")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment(file: Path) -> None:
    found = experiment_file.read(file, Path("experiments"), tuple(METRICS))
    configs = {run.arm: run.config for run in found.runs if run.seed == found.seeds[0]}
    assert all(config.cluster.device == "cpu" for config in configs.values())
    assert len({config.data.split_seed for config in configs.values()}) == 1
    about = file.read_text(encoding="utf-8").partition("\nbase: ")[0]
    assert f"#   python -m maskdpo_ray.experiment configs/experiments/{file.name}" in about
    for row in found.paper.values():
        assert re.fullmatch(rf"({'|'.join(PAPERS)}) (table|figure) \d+", row.table)


@pytest.mark.parametrize("file", TWINS, ids=lambda file: file.stem)
def test_a_twin_has_the_same_arms_for_a_gpu_cluster(file: Path) -> None:
    """But for `sft`, which makes the other model of the small world."""
    found, ours = (
        experiment_file.read(each, Path("experiments"), tuple(METRICS)) for each in (file, FOLDER / file.name)
    )
    assert set(ours.arms) - set(found.arms) <= {"sft"} and set(found.arms) <= set(ours.arms)
    assert (found.seeds, found.paper, found.directions) == (ours.seeds, ours.paper, ours.directions)
    small = "smollm2"
    for run in found.runs:
        assert run.config.cluster.device == "cuda" and small not in cli.to_yaml(run.config)
        assert run.config.vllm.max_model_len == 4096 and run.config.eval.n_samples_per_prompt >= 5
    text = file.read_text(encoding="utf-8")
    assert f"python -m maskdpo_ray.experiment configs/experiments/paper/{file.name} --dir experiments/paper" in text


def test_each_table_has_a_twin_and_a_row_in_the_docs() -> None:
    names = {file.stem for file in FILES}
    assert {file.stem for file in TWINS} == names - OURS
    rows = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    assert all(f"| [{name}](../configs/experiments/{name}.yaml) |" in rows for name in names - OURS)
