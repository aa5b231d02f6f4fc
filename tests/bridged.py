"""Parts that the tests of the bridges share: masked pairs, two models, and a rank's step on them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import plain_training
import pytest
import rank_processes
import torch
from transformers import AutoModelForCausalLM

from maskdpo_ray.config.schema import SavingsConfig, TrainConfig
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import batches
from maskdpo_ray.training.forward import response_logps
from maskdpo_ray.training.objectives.dpo import masked_dpo_loss

BETA = 0.1
WEIGHTS = {"masks": (0.0, 1.0), "ones": (1.0,), "fractions": (0.0, 0.25, 1.0)}
"""Kind of pairs -> the weights of their tokens, after a first one of 1."""


def examples(kind: str, count: int = 5) -> list[TrainingExample]:
    """Pairs of ids that the tokenizer of `bad_input.small_model` knows, of different lengths."""
    rng = random.Random(3)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 99) for _ in range(size))

    def weights(size: int) -> tuple[float, ...]:
        return (1.0, *(rng.choice(WEIGHTS[kind]) for _ in range(size - 1)))

    found = []
    for index in range(count):
        sides = [ids(3 + 2 * index), ids(10 - index)]
        found.append(
            TrainingExample.of_pair(f"q{index}#0", ids(3 + index), *sides, *(weights(len(side)) for side in sides))
        )
    return found


def rows(pairs: Sequence[TrainingExample]) -> list[dict[str, Any]]:
    """The pairs as `export --to masked` writes them, with texts that the ids do not spell."""
    return [
        {
            "prompt": [{"role": "user", "content": "?"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
            "question_id": pair.id.removesuffix("#0"),
            "prompt_tokens": list(pair.prompt_token_ids),
            "chosen_tokens": list(pair.responses[0].token_ids),
            "rejected_tokens": list(pair.responses[1].token_ids),
            "chosen_weights": list(pair.responses[0].weights),
            "rejected_weights": list(pair.responses[1].weights),
        }
        for pair in pairs
    ]


def block_of_docs(heading: str) -> str:
    """The first Python example below a heading of docs/bridges.md."""
    page = (Path(__file__).resolve().parents[1] / "docs/bridges.md").read_text(encoding="utf-8")
    return page.split(f"# {heading}\n")[1].split("```python\n")[1].split("```")[0]


def reference(folder: Path) -> Any:
    """The model of a folder, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def policy(folder: Path) -> Any:
    """The same model some way on."""
    model, generator = reference(folder), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


Step = tuple[float, dict[str, torch.Tensor]]
"""Loss, and gradient by name of a parameter."""


def rank_steps(folder: Path, model: Path) -> dict[str, Step]:
    """The step of a real rank, DeepSpeed and all savings included, by kind of pairs."""
    policy(model).save_pretrained(folder / "policy")
    rank_processes.run(_rank_main, 1, str(folder), str(model))
    found: dict[str, Step] = torch.load(folder / "steps.pt")
    return found


def _rank_main(rank: int, world: int, port: int, folder: str, model: str) -> None:
    from deepspeed.utils import safe_get_full_grad

    torch.set_num_threads(1)
    given = replace(plain_training.config(2, "fp32"), train=TrainConfig(beta=BETA, micro_batch_size=2, max_norm=1e6))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{model}/{name}", f"{folder}/policy/{name}")
    member, steps = plain_training.Member(given, rank, world, port, folder, examples("ones")), {}
    for kind in WEIGHTS:
        pairs = examples(kind)
        member.use(given, pairs)
        member.begin(f"{folder}/policy", 1, logps=member.logps(model))
        engine, kept = member.trainer._engine, {}
        take = engine.step

        def step(engine: Any = engine, kept: dict[str, Any] = kept, take: Any = take) -> None:
            kept.update({name: safe_get_full_grad(each).clone() for name, each in engine.module.named_parameters()})
            take()

        engine.step = step
        (figures,) = member.steps([list(range(len(pairs)))])
        steps[kind] = figures["loss"], kept
    member.trainer.close()
    torch.save(steps, f"{folder}/steps.pt")


def step_in_trees(policy: Any, reference: Any, pairs: Sequence[TrainingExample]) -> Step:
    """A rank's step without DeepSpeed: in micro-batches of prefix trees, with all savings."""
    total, savings = 0.0, SavingsConfig()
    policy.zero_grad()
    for places in batches.micro_batches(pairs, 0, 1, TrainConfig(micro_batch_size=2), savings):
        batch = [pairs[place] for place in places]
        logps, weights = response_logps(policy, batch, savings=savings)
        with torch.no_grad():
            against, _ = response_logps(reference, batch, savings=savings)
        loss = masked_dpo_loss(logps, against, weights, BETA, reduction="sum")[0] / len(pairs)
        loss.backward()
        total += loss.item()
    return total, gradients(policy)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Name of a parameter -> its gradient."""
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the error of all gradients together, over theirs."""
    assert found.keys() == expected.keys() and expected
    errors = torch.stack([(found[name] - expected[name]).norm() for name in expected])
    return (errors.norm() / torch.stack([each.norm() for each in expected.values()]).norm()).item()


def agree(found: Step, expected: Step) -> None:
    """Assert the same loss and gradients within 1e-6, relative to the loss and to the norm of the gradient."""
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert relative_error(found[1], expected[1]) < 1e-6
