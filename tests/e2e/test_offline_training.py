"""`python -m maskdpo_ray.train` on a real rank and a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from driver import Driver
from finished_run import finish, write_pairs
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(600)
COMMAND = (sys.executable, "-m", "maskdpo_ray.train")


def test_offline_training(tiny_model: Path, tmp_path: Path) -> None:
    """The policy learns the pairs, is left as a Hugging Face folder, and a second call starts nothing."""

    write_pairs(tmp_path / "pairs.jsonl")
    config = {
        "run": {"name": "offline", "dir": str(tmp_path)},
        "model": {"model_name_or_path": str(tiny_model)},
        "train": {"batch_size": 2, "max_epochs": 4, "lr_warmup_ratio": 0},
        "adam": {"lr": 1e-3},
        "ds": {"param_dtype": "fp32"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    call = [str(tmp_path / "pairs.jsonl"), "--config", str(tmp_path / "config.yaml")]
    with Driver(call, tmp_path / "first.log", COMMAND) as driver:
        run = finish(driver, tmp_path / "offline")
    assert run.code == 0 and run.left == [], run.output
    assert "learned from 4 of 4 pairs" in run.output and "Traceback" not in run.output
    summary = run.read("summary.json")
    assert summary["steps"] == 8
    assert summary["first"]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy and reference are the same
    assert summary["last"]["loss"] < summary["first"]["loss"] and summary["last"]["accuracy"] == 1.0
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, Path(summary["policy"])))
    assert any(not before[name].equal(after[name]) for name in before)
    assert json.loads((Path(summary["policy"]) / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    with Driver(call, tmp_path / "second.log", COMMAND) as driver:
        again = finish(driver, tmp_path / "offline")
    assert again.code == 0 and "is finished: nothing is left to do" in again.output, again.output
