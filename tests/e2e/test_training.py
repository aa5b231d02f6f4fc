"""Training ranks against a plain torch implementation that pads, runs on one process and in float32."""

from __future__ import annotations

import gc
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_processes
import torch
from plain_training import BATCHES, TRAIN, Member, config, examples, padded_logps, train_plainly
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from maskdpo_ray.errors import ModelError, NotFiniteError

pytestmark = pytest.mark.timeout(600)

CASES = [(world, stage, dtype) for world in (1, 2) for dtype in ("fp32", "bf16") for stage in (2, 3)]
DEFAULT = {(1, 2, "fp32"), (2, 3, "fp32")}
"""Both group sizes and stages; the others are nightly. bf16: `test_sized.py` by default."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def allocated() -> int:
    """Bytes of all live tensors of this process."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def rank_main(rank: int, world: int, port: int, stage: int, dtype: str, model: str, lacking: str, folder: str) -> None:
    """Everything that one rank does; what the tests check goes to `folder`."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    member = Member(config(stage, dtype), rank, world, port, folder, examples())
    trainer = member.trainer

    reference = member.logps(model)
    member.begin(model, len(BATCHES), logps=reference)
    own = member.logps()
    report["same_reference"] = all(
        np.array_equal(a, b) for x, y in zip(reference, own, strict=True) for a, b in zip(x, y, strict=True)
    )
    report["reference"] = [[side.tolist() for side in pair] for pair in reference]
    report["steps"] = member.steps(BATCHES[:3])
    trainer.save_checkpoint(f"{folder}/checkpoint")
    report["steps"] += member.steps(BATCHES[3:])
    trainer.save_policy(f"{folder}/policy")
    trainer.save_policy(f"{folder}/policy")  # over an earlier one, as after a crash
    report["trained"] = [[side.tolist() for side in pair] for pair in member.logps()]
    report["initial_again"] = [[side.tolist() for side in pair] for pair in member.logps(model)]

    member.begin(model, len(BATCHES), logps=reference)
    report["allocated"] = [allocated()]
    trainer.load_checkpoint(f"{folder}/checkpoint")
    report["resumed_steps"] = member.steps(BATCHES[3:])
    trainer.save_policy(f"{folder}/resumed")
    member.begin(model, len(BATCHES), logps=[(chosen * np.nan, rejected) for chosen, rejected in reference])
    report["allocated"].append(allocated())
    try:
        member.steps([[0, 1, 2, 3, 4]])
    except NotFiniteError as error:
        report["not_finite"] = str(error)
    try:
        member.begin(lacking, 1)
    except ModelError as error:
        report["lacking"] = str(error)
    trainer.close()
    if rank == 0:
        Path(f"{folder}/report.json").write_text(json.dumps(report))


@dataclass(frozen=True)
class Case:
    """Outcome of a group of ranks: its report, and the folders `policy` and `resumed`."""

    dtype: str
    folder: Path
    report: dict[str, Any]

    @property
    def is_exact(self) -> bool:
        return self.dtype == "fp32"


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> dict[str, Any]:
    return train_plainly(tiny_model)


@pytest.fixture(scope="module")
def lacking(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_a_weight(tiny_model, tmp_path_factory.mktemp("lacking") / "model")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(case, id="-".join(map(str, case)), marks=[] if case in DEFAULT else pytest.mark.nightly)
        for case in CASES
    ],
)
def case(
    request: pytest.FixtureRequest, tiny_model: Path, lacking: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """A group of ranks by size, ZeRO stage and dtype."""
    world, stage, dtype = request.param
    folder = tmp_path_factory.mktemp("training")
    rank_processes.run(rank_main, world, stage, dtype, str(tiny_model), str(lacking), str(folder))
    return Case(dtype, folder, json.loads((folder / "report.json").read_text()))


def without_a_weight(model: Path, folder: Path) -> Path:
    """A copy of a model's folder that lacks one tensor."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_steps_equal_the_plain_ones(case: Case, plain: dict[str, Any]) -> None:
    tolerance = {"rel": 1e-4, "abs": 1e-5} if case.is_exact else {"rel": 0.1, "abs": 0.1}
    for step, expected in zip(case.report["steps"], plain["steps"], strict=True):
        for name in ("loss", "chosen_reward", "rejected_reward", "grad_norm"):
            assert step[name] == pytest.approx(expected[name], **tolerance), name
        assert step["tokens"] == expected["tokens"]
        assert step["lr"] == pytest.approx(expected["lr"], abs=1e-12)
        # In the first two steps policy and reference are equal: which reward is higher is rounding.
        if expected["chosen_reward"] != pytest.approx(0, abs=1e-4):
            assert step["accuracy"] == pytest.approx(expected["accuracy"])


def test_weights_equal_the_plain_ones(case: Case, plain: dict[str, Any], tiny_model: Path) -> None:
    saved = AutoModelForCausalLM.from_pretrained(case.folder / "policy", dtype=torch.float32)
    initial = dict(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).named_parameters())
    # bf16 rounds weights when they are loaded and when they are saved, each time by 2^-9 of their size at most.
    rounding, bound = (0.0, 1e-3) if case.is_exact else (2**-8, 0.1)
    wrong = moved = 0.0
    for name, parameter in saved.named_parameters():
        expected = plain["weights"][name]
        wrong += ((parameter - expected).abs() - rounding * expected.abs()).clamp(min=0).square().sum().item()
        moved += (expected - initial[name]).square().sum().item()
    assert math.sqrt(wrong / moved) < bound


def test_steps_are_clipped_and_learn(plain: dict[str, Any]) -> None:
    """The comparison says something only where clipping acts and the policy moves."""
    norms, losses = ([step[name] for step in plain["steps"]] for name in ("grad_norm", "loss"))
    assert max(norms) > 2 * TRAIN.max_norm
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[4] < losses[3] < losses[1] - 0.1


def test_reference_logps(case: Case, plain: dict[str, Any]) -> None:
    report, pairs = case.report, examples()
    assert report["same_reference"]  # of the loaded policy, and of the same folder loaded for a moment
    assert report["initial_again"] == report["reference"]  # not touched by training
    tolerance = 1e-4 if case.is_exact else 0.2
    for index, (example, pair) in enumerate(zip(pairs, report["reference"], strict=True)):
        sides = (example.responses[0].weights, example.responses[1].weights)
        for offset, weights, values in zip((0, 5), sides, pair, strict=True):
            expected = plain["reference"][offset + index, : len(weights)] * (torch.tensor(weights) > 0)
            torch.testing.assert_close(torch.tensor(values), expected, atol=tolerance, rtol=0)


def test_saved_policy_reloads(case: Case, tiny_model: Path) -> None:
    folder, dtype = case.folder / "policy", DTYPES[case.dtype]
    assert {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"} <= {
        file.name for file in folder.iterdir()
    }
    assert not list(case.folder.glob("*.partial"))
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).split(".")[1]
    with torch.no_grad():
        logps, weights = padded_logps(model, examples())
    trained = case.report["trained"]
    values = [pair[0] for pair in trained] + [pair[1] for pair in trained]
    for row, expected in enumerate(values):
        actual = (logps[row] * (weights[row] > 0))[: len(expected)]
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4 if case.is_exact else 0.2, rtol=0)
    chat = [{"role": "user", "content": "Five facts about Côte d'Ivoire."}]
    old, new = (AutoTokenizer.from_pretrained(path) for path in (tiny_model, folder))
    assert new.apply_chat_template(chat)["input_ids"] == old.apply_chat_template(chat)["input_ids"]


def test_a_checkpoint_continues_as_if_never_stopped(case: Case) -> None:
    assert case.report["resumed_steps"] == case.report["steps"][3:]
    straight, resumed = (
        AutoModelForCausalLM.from_pretrained(case.folder / name).state_dict() for name in ("policy", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_memory_does_not_grow_and_errors_stop_the_step(case: Case) -> None:
    before, after = case.report["allocated"]
    assert after <= before * 1.01
    assert "nan" in case.report["not_finite"]


def test_a_folder_that_lacks_weights_is_refused(case: Case) -> None:
    """transformers would fill them in at random."""
    assert "model.norm.weight" in case.report["lacking"]
