"""Every objective on DeepSpeed ranks: losses and gradients of a plain torch loop, and a stop in the middle.

The loop pads, holds a whole batch at a time and has one process; ranks share prompts in a tree, cut tails, read the
reference from a file (or run it in each step) and share out the batch. What an objective does with the sums is its unit
test's concern.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import rank_processes
import torch
from plain_training import ADAM, BATCHES, LR, TRAIN, Member, config, examples
from transformers import AutoModelForCausalLM

from maskdpo_ray.config.schema import LoraConfig, ObjectiveConfig
from maskdpo_ray.pairing.examples import with_mismatched
from maskdpo_ray.records import CHOSEN, MISMATCHED, REJECTED, TrainingExample
from maskdpo_ray.training.objectives import protocol as objectives
from maskdpo_ray.training.objectives.protocol import Batch, Objective

pytestmark = pytest.mark.timeout(900)

SFT_WEIGHT = {"dpo": 0.7}
"""Objectives with a term beside them."""
DEFAULT = ("dpo", "kto", "tdpo", "sft")
"""A term beside; means over the batch and mismatched answers; the reference's distribution; no reference, one answer.
The other objectives, ZeRO-2 and adapters are nightly."""
CASES = {
    "default": (2, 3, LoraConfig(), DEFAULT),
    "all-1-2": (1, 2, LoraConfig(), tuple(objectives.names())),
    "all-2-3": (2, 3, LoraConfig(), tuple(objectives.names())),
    "lora-2-2": (2, 2, LoraConfig(rank=3, alpha=12), tuple(objectives.names())),
    "lora-1-3": (1, 3, LoraConfig(rank=3, alpha=12), tuple(objectives.names())),
}
"""Name -> (ranks, ZeRO stage, adapters, objectives)."""


def examples_of(objective: Objective) -> list[TrainingExample]:
    """Examples as `pairing.examples` makes them for an objective; for single responses, some pairs lack a side."""
    made = examples()
    if objective.unit == "response":
        made[1], made[3] = (replace(e, responses=(e.responses[side],)) for e, side in ((made[1], 0), (made[3], 1)))
    kept = [replace(e, responses=tuple(r for r in e.responses if r.role in objective.roles)) for e in made]
    if objective.unit == "chosen response":
        return [e for e in kept if e.responses]
    return list(with_mismatched(kept)) if objective.needs_mismatched else kept


def rank_main(rank: int, world: int, port: int, name: str, model: str, folder: str) -> None:
    """Everything that one rank does in a case; what the tests check goes to `folder`."""
    torch.set_num_threads(1)
    _, stage, lora, names = CASES[name]
    base = replace(config(stage, "fp32"), lora=lora)
    member = Member(base, rank, world, port, folder, examples())
    report: dict[str, Any] = {}
    for of in names:
        objective = objectives.load(of)
        given = replace(base, objective=ObjectiveConfig(of, sft_weight=SFT_WEIGHT.get(of, 0.0)))
        member.use(given, examples_of(objective))
        against: dict[str, Any] = {}
        if objective.needs_kl:
            against = {"reference_path": model}
        elif objective.needs_reference:
            against = {"logps": member.logps(model)}
        starts_at_reference = objective.needs_reference
        member.begin(model, len(BATCHES), 5, starts_at_reference=starts_at_reference, **against)
        steps = member.steps(BATCHES[:3])
        member.trainer.save_checkpoint(f"{folder}/checkpoint-{of}")
        steps += member.steps(BATCHES[3:])
        member.begin(model, len(BATCHES), 5, **against)
        member.trainer.load_checkpoint(f"{folder}/checkpoint-{of}")
        report[of] = {"steps": steps, "resumed": member.steps(BATCHES[3:])}
    member.trainer.close()
    if rank == 0:
        Path(f"{folder}/report.json").write_text(json.dumps(report))


@dataclass(frozen=True)
class Case:
    """Outcome of a group of ranks: objective -> its steps, and those after a stop."""

    lora: LoraConfig
    report: dict[str, dict[str, list[dict[str, float]]]]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name == "default" else pytest.mark.nightly) for name in CASES],
)
def case(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, (world, _, lora, _) = tmp_path_factory.mktemp("objectives"), CASES[request.param]
    rank_processes.run(rank_main, world, request.param, str(tiny_model), str(folder))
    return Case(lora, json.loads((folder / "report.json").read_text()))


def token_distributions(model: Any, example: TrainingExample) -> list[torch.Tensor]:
    """log-softmax before each token of each response: [response length, V], a forward pass each, all logits."""
    found = []
    for response in example.responses:
        ids = torch.tensor([*example.prompt_token_ids, *response.token_ids])
        logits = model(input_ids=ids[None]).logits[0].float()
        found.append(logits.log_softmax(-1)[len(example.prompt_token_ids) - 1 : -1])
    return found


def train_plainly(folder: Path, name: str) -> list[dict[str, float]]:
    """Loss and gradient norm of each step, batches whole, torch's AdamW."""
    objective, sft_weight = objectives.load(name), SFT_WEIGHT.get(name, 0.0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    groups = [{"params": decayed, "weight_decay": ADAM.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=ADAM.betas, eps=ADAM.eps)
    own, steps = examples_of(objective), []
    for batch, lr in zip(BATCHES, LR, strict=True):
        sums: dict[str, list[objectives.Responses]] = {CHOSEN: [], REJECTED: [], MISMATCHED: []}
        for example in (own[index] for index in batch):
            with torch.no_grad():
                theirs = token_distributions(reference, example)
            pairs = zip(example.responses, token_distributions(model, example), theirs, strict=True)
            for response, ours, of_reference in pairs:
                targets = torch.tensor(response.token_ids)[:, None]
                logps = [each.gather(1, targets)[:, 0][None] for each in (ours, of_reference)]
                kls = (of_reference.exp() * (of_reference - ours)).sum(-1)[None]
                sums[response.role].append(objectives.sums(*logps, torch.tensor([response.weights]), kls))
        joined = {role: _joined(each) for role, each in sums.items() if each}
        means = {role: joined[role].ratios.mean().detach() for role in objective.needs_means}
        empty = joined.get(CHOSEN, joined.get(REJECTED))
        assert empty is not None
        chosen, rejected = (joined.get(role, empty[:0]) for role in (CHOSEN, REJECTED))
        loss = objective.losses(Batch(chosen, rejected, means), TRAIN.beta).mean()
        if sft_weight:
            loss = loss - sft_weight * (chosen.policy / chosen.tokens).mean()
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.max_norm)
        for group in adam.param_groups:
            group["lr"] = lr * ADAM.lr
        adam.step()
        steps.append({"loss": loss.item(), "grad_norm": norm.item()})
    return steps


def _joined(responses: list[objectives.Responses]) -> objectives.Responses:
    policy, tokens, ratios, kls = (
        torch.cat([getattr(each, part) for each in responses]) for part in ("policy", "tokens", "ratios", "kl")
    )
    return objectives.Responses(policy, tokens, ratios, kls)


def test_losses_and_gradients_are_a_plain_loops(case: Case, tiny_model: Path) -> None:
    wrong = {}
    for name, found in case.report.items():
        expected = train_plainly(tiny_model, name)
        # Adapters are other weights, which begin at nothing.
        num_comparable = 1 if case.lora.rank else len(BATCHES)
        tolerances = {"loss": 2e-5} if case.lora.rank else {"loss": 2e-5, "grad_norm": 1e-3}
        for part, tolerance in tolerances.items():
            got, wanted = ([step[part] for step in steps[:num_comparable]] for steps in (found["steps"], expected))
            if got != pytest.approx(wanted, rel=tolerance, abs=1e-6):
                wrong[name, part] = (got, wanted)
        assert found["steps"][0]["grad_norm"] > 0, name  # later a hinge may have nothing to learn
    assert not wrong


def test_a_stopped_training_resumes_to_the_bit(case: Case) -> None:
    for name, found in case.report.items():
        assert found["resumed"] == found["steps"][3:], name


def test_metrics_are_those_that_the_objective_has(case: Case) -> None:
    for name, found in case.report.items():
        objective = objectives.load(name)
        step = found["steps"][0]
        assert ("accuracy" in step) == (objective.unit == "pair"), name
        assert ("rejected_reward" in step) == (objective.unit != "chosen response"), name
        assert step["tokens"] > 0, name
