"""The GPU benchmark's command at a tiny shape on a CPU: DeepSpeed's optimizer, TRL's row, and no other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from driver import REPOSITORY

ABSENT = ("ray", "vllm", "openrlhf")
SIZES = "--prompt_tokens 32 --answer_tokens 32 --batch_size 4 --micro_batch_size 2 --steps 2 --repeats 1 --threads 1"


def test_both_contenders_train_without_ray_vllm_and_openrlhf(tmp_path: Path) -> None:
    block = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"  # as if they were not installed
    (tmp_path / "sitecustomize.py").write_text(block)
    figures = tmp_path / "figures.json"
    command = f"benchmarks/gpu_training.py --device cpu --shape tiny --lr 1e-2 {SIZES} --json {figures}"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert found["options"]["optimizer"] == "deepspeed" and list(found["contenders"]) == ["ours", "trl"]
    for name, turns in found["outcomes"].items():
        losses = turns[0]["losses"]
        assert losses[0] == pytest.approx(0.6931, abs=1e-2) and losses[-1] < losses[0], name
        assert found["contenders"][name]["peak_memory_gib"]["median"] > 0
        assert f"| {name} " in done.stdout
    assert "of the matrix rate" in done.stdout
