"""`benchmarks/gpu_check.py` whole, at a tiny shape on a CPU: each section's process, without Ray and vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from driver import REPOSITORY

ABSENT = ("ray", "vllm")
SIZES = "--prompt_tokens 32 --answer_tokens 32 --batch_size 4 --micro_batch_size 2 --steps 2 --threads 1"


def test_all_sections_have_figures_without_ray_and_vllm(tmp_path: Path) -> None:
    block = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"  # as if they were not installed
    (tmp_path / "sitecustomize.py").write_text(block)
    figures = tmp_path / "figures.json"
    command = f"benchmarks/gpu_check.py --device cpu --lr 1e-2 {SIZES} --work {tmp_path} --json {figures}"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())["sections"]
    trained = ["rank tiny", "rank tiny lora", "rank tiny checkpointed", "trl tiny"]
    assert set(found) == {"rate tiny", "agreement tiny", *trained}
    for name in trained:
        losses = found[name]["losses"]
        assert losses[0] == pytest.approx(0.6931, abs=1e-2) and losses[-1] < losses[0], name
        assert found[name]["flops"] > 0 and len(found[name]["step_seconds"]) == 2
    # Trees keep shared tokens once, so that a step computes less than TRL's; the rest of it is the head.
    assert found["rank tiny"]["flops"] < found["trl tiny"]["flops"]
    assert found["agreement tiny"]["agrees"] and len(found["agreement tiny"]["compared"]) == 3
    assert not (tmp_path / "tiny").exists()  # in a folder of the command's own, removed with it
    assert "| tiny ours lora" in done.stdout and "| tiny TRL" in done.stdout
