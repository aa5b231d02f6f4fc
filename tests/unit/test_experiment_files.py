"""The experiments of configs/experiments: each file is read whole, and says how to run it and what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.report.experiments.table import METRICS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs/experiments").glob("*.yaml"))
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
