"""Mask-DPO beside plain DPO, an iteration of each on a model that speaks: they differ in nothing but the loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from driver import Driver
from finished_run import Run, arguments, finish
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(2400)


def one_iteration(policy: str, smallest: Path, runs_dir: Path) -> Run:
    folder = runs_dir / policy
    options = arguments(folder, smallest, mask__policy=policy, run__iterations=1)
    with Driver(options, runs_dir / f"{policy}.log") as driver:
        run = finish(driver, folder)
    assert run.code == 0, run.output
    return run


def test_vanilla_differs_in_the_policy_only(smallest: Path, runs_dir: Path) -> None:
    """Same seeds, same initial policy: the same answers, labels and pairs; only the loss differs."""
    masked_run, vanilla_run = (one_iteration(policy, smallest, runs_dir) for policy in ("mask_dpo", "vanilla"))
    masked, vanilla = ((run.folder / "iter_000/questions.jsonl").read_bytes() for run in (masked_run, vanilla_run))
    assert sorted(masked.splitlines()) == sorted(vanilla.splitlines())  # questions finish in any order
    masked, vanilla = (
        load_file(run.folder / "iter_000" / "policy" / "model.safetensors") for run in (masked_run, vanilla_run)
    )
    assert masked.keys() == vanilla.keys()
    assert any(not torch.equal(masked[name], vanilla[name]) for name in masked)
    losses = [
        [line["train/loss"] for line in run.lines("metrics.jsonl") if "train/loss" in line]
        for run in (masked_run, vanilla_run)
    ]
    # Both begin at the reference, where the loss is log 2, but for bf16's noise over a batch of two pairs.
    assert [losses[0][0], losses[1][0]] == pytest.approx([math.log(2)] * 2, abs=0.02)
    assert losses[0][: len(losses[1])] != losses[1]
