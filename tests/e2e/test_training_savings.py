"""DeepSpeed ranks with all savings, none, and LoRA, under ZeRO-2 and ZeRO-3, against plain torch (and PEFT) loops."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import rank_processes
import torch
import torch.nn.functional as F
from plain_training import ADAM, BATCHES, BETA, LR, TRAIN, Member, config, examples, padded_logps, train_plainly
from transformers import AutoModelForCausalLM

from actors import strategy
from maskdpo_ray.config.schema import LoraConfig, SavingsConfig

pytestmark = pytest.mark.timeout(600)

NONE = SavingsConfig(**{field.name: False for field in fields(SavingsConfig)})
ALL = SavingsConfig()
EACH_STEP = replace(ALL, reference_once=False)
LORA, PLAIN = LoraConfig(rank=3, alpha=12), LoraConfig()
TIGHT = replace(TRAIN, max_tokens_per_gpu=70)
CASES: dict[str, tuple[int, int, SavingsConfig, LoraConfig]] = {
    "none-1-2": (1, 2, NONE, PLAIN),
    "none-2-3": (2, 3, NONE, PLAIN),
    "all-1-2": (1, 2, ALL, PLAIN),
    "all-2-3": (2, 3, ALL, PLAIN),
    "lora-1-2": (1, 2, ALL, LORA),
    "lora-2-3": (2, 3, ALL, LORA),
    "lora-each-step-1-2": (1, 2, EACH_STEP, LORA),
    "lora-each-step-2-3": (2, 3, EACH_STEP, LORA),
}
"""Name -> (ranks, ZeRO stage, savings, adapters)."""
DEFAULT = {"all-2-3", "lora-1-2"}
"""The others are nightly."""


def rank_main(rank: int, world: int, port: int, name: str, model: str, folder: str) -> None:
    """Everything that one rank does in a case; what the tests check goes to `folder`."""
    torch.set_num_threads(1)
    _, stage, savings, lora = CASES[name]
    given = replace(config(stage, "fp32"), train=TIGHT, savings=savings, lora=lora)
    member = Member(given, rank, world, port, folder, examples())
    trainer, reference = member.trainer, member.logps(model)
    against = {"logps": reference} if savings.reference_once else {"reference_path": model}
    member.begin(model, len(BATCHES), 5, **against)
    report = member.steps(BATCHES[:3])
    trainer.save_checkpoint(f"{folder}/checkpoint")
    report += member.steps(BATCHES[3:])
    trainer.save_policy(f"{folder}/policy")
    member.begin(model, len(BATCHES), 5, **against)
    trainer.load_checkpoint(f"{folder}/checkpoint")
    resumed = member.steps(BATCHES[3:])
    trainer.save_policy(f"{folder}/resumed")
    trainer.close()
    if rank == 0:
        Path(f"{folder}/report.json").write_text(json.dumps({"steps": report, "resumed": resumed}))


@dataclass(frozen=True)
class Case:
    """Outcome of a group of ranks: its report, and the folders `policy` and `resumed`."""

    lora: LoraConfig
    folder: Path
    report: dict[str, Any]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in DEFAULT else pytest.mark.nightly) for name in CASES]
)
def case(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, (world, _, _, lora) = tmp_path_factory.mktemp("savings"), CASES[request.param]
    rank_processes.run(rank_main, world, request.param, str(tiny_model), str(folder))
    return Case(lora, folder, json.loads((folder / "report.json").read_text()))


def train_adapters_plainly(folder: Path) -> dict[str, Any]:
    """The same steps by PEFT and torch's AdamW in float32, one padded row for each answer; merged by PEFT."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    strategy.seed_everything("5/adapters")
    model, pairs, steps = strategy.wrap(model, LORA), examples(), []
    adam = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        betas=ADAM.betas,
        eps=ADAM.eps,
        weight_decay=ADAM.weight_decay,
    )
    for batch, lr in zip(BATCHES, LR, strict=True):
        chosen_pairs = [pairs[i] for i in batch]
        with torch.no_grad(), model.disable_adapter():
            reference, _ = padded_logps(model, chosen_pairs)
        logps, weights = padded_logps(model, chosen_pairs)
        chosen, rejected = (BETA * (weights * (logps - reference)).sum(-1)).chunk(2)
        loss = -F.logsigmoid(chosen - rejected).mean()
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.max_norm)
        for group in adam.param_groups:
            group["lr"] = lr * ADAM.lr
        adam.step()
        steps.append({"loss": loss.item(), "grad_norm": norm.item()})
    return {"steps": steps, "weights": dict(model.merge_and_unload().named_parameters())}


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> dict[LoraConfig, dict[str, Any]]:
    return {PLAIN: train_plainly(tiny_model), LORA: train_adapters_plainly(tiny_model)}


def test_steps_equal_the_plain_ones(case: Case, plain: dict[LoraConfig, dict[str, Any]]) -> None:
    for step, expected in zip(case.report["steps"], plain[case.lora]["steps"], strict=True):
        for figure in ("loss", "grad_norm"):
            assert step[figure] == pytest.approx(expected[figure], rel=1e-4, abs=1e-5), figure


def test_policies_equal_the_plain_ones(case: Case, plain: dict[LoraConfig, dict[str, Any]], tiny_model: Path) -> None:
    saved, info = AutoModelForCausalLM.from_pretrained(
        case.folder / "policy", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    initial = dict(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).named_parameters())
    wrong = moved = 0.0
    for parameter_name, parameter in saved.named_parameters():
        expected = plain[case.lora]["weights"][parameter_name]
        wrong += (parameter - expected).square().sum().item()
        moved += (expected - initial[parameter_name]).square().sum().item()
    assert moved > 0
    assert math.sqrt(wrong / moved) < 1e-3


def test_a_checkpoint_continues_as_if_never_stopped(case: Case) -> None:
    assert case.report["resumed"] == case.report["steps"][3:]
    straight, resumed = (
        AutoModelForCausalLM.from_pretrained(case.folder / name).state_dict() for name in ("policy", "resumed")
    )
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_adapters_alone_are_trained(case: Case, tiny_model: Path) -> None:
    """With adapters, embeddings and norms stay as they were."""
    initial = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    trained = AutoModelForCausalLM.from_pretrained(case.folder / "policy").state_dict()
    changed = {name for name in initial if not torch.equal(initial[name], trained[name])}
    assert changed
    assert all("_proj" in name for name in changed) == (case.lora == LORA)
