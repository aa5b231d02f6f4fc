"""What tests of real training ranks share: pairs, settings, and log-probs computed in the plainest way."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from actors.strategy import OptimizerSettings
from actors.training import TrainingSettings
from maskdpo_ray.records import TrainingExample

BETA = 0.5
# A large eps: AdamW forgives gradients that are wrong by a factor otherwise, and the tests would too.
OPTIMIZER = OptimizerSettings(
    lr=2e-3,
    betas=(0.9, 0.95),
    eps=1e-2,
    weight_decay=0.1,
    max_norm=1.0,
    lr_scheduler="cosine",
    lr_warmup_ratio=0.2,
    min_lr_ratio=0.1,
)
# Five pairs over two ranks: shares of three and two, micro-batches of two: two passes and one.
# The batch of one pair leaves the second rank empty-handed.
BATCHES = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [2], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]
LR = [0.0, 1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 + math.cos(3 * math.pi / 4))]
MICRO_BATCH_SIZE = 2


def examples() -> list[TrainingExample]:
    """Five pairs with shared prompts, answers that share beginnings, and weights 0, 1 and between."""
    rng = random.Random(7)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 2000) for _ in range(count))

    def weights(count: int) -> tuple[float, ...]:
        return (1.0, *(rng.choice((0.0, 0.5, 1.0)) for _ in range(count - 1)))

    few_shots, result = ids(12), []
    for index in range(5):
        prompt, beginning = few_shots + ids(3 + index), ids(index)
        chosen, rejected = beginning + ids(6 + index), beginning + ids(9 - index)
        result.append(
            TrainingExample(f"q{index}", prompt, chosen, rejected, weights(len(chosen)), weights(len(rejected)))
        )
    return result


def padded_logps(model: Any, pairs: list[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs, weights) [2B, T], chosen rows first: one right-padded row per answer, all logits, no tricks."""
    sides = [(e.prompt_token_ids, e.chosen_token_ids, e.chosen_weights) for e in pairs]
    sides += [(e.prompt_token_ids, e.rejected_token_ids, e.rejected_weights) for e in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer, _ in sides)
    longest = max(len(answer) for _, answer, _ in sides)
    ids, mask = torch.zeros(len(sides), width, dtype=torch.long), torch.zeros(len(sides), width, dtype=torch.long)
    for row, (prompt, answer, _) in enumerate(sides):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[row, : len(prompt) + len(answer)] = 1
    all_logps = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
    logps, weights = [], torch.zeros(len(sides), longest)
    for row, (prompt, answer, weight) in enumerate(sides):
        values = all_logps[row, torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1), torch.tensor(answer)]
        logps.append(F.pad(values, (0, longest - len(answer))))
        weights[row, : len(answer)] = torch.tensor(weight)
    return torch.stack(logps), weights


def train_plainly(folder: Path) -> dict[str, Any]:
    """The same steps in float32: Mask-DPO eq. 6 written out, torch's AdamW, gradients of the whole batch at once."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs = examples()
    with torch.no_grad():
        reference, _ = padded_logps(model, pairs)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.eps,
    )
    steps = []
    for batch, lr in zip(BATCHES, LR, strict=True):
        logps, weights = padded_logps(model, [pairs[i] for i in batch])
        rows = [*batch, *(len(pairs) + i for i in batch)]
        rewards = BETA * (weights * (logps - reference[rows, : weights.shape[1]])).sum(-1)
        chosen, rejected = rewards[: len(batch)], rewards[len(batch) :]
        loss = -F.logsigmoid(chosen - rejected).mean()
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_norm)
        for group in adam.param_groups:
            group["lr"] = lr * OPTIMIZER.lr
        adam.step()
        steps.append(
            {
                "loss": loss.item(),
                "accuracy": (chosen > rejected).float().mean().item(),
                "chosen_reward": chosen.mean().item(),
                "rejected_reward": rejected.mean().item(),
                "tokens": float((weights > 0).sum()),
                "grad_norm": norm.item(),
                "lr": lr * OPTIMIZER.lr,
            }
        )
    return {"steps": steps, "weights": dict(model.named_parameters()), "reference": reference}


def settings(stage: int, dtype: str) -> TrainingSettings:
    return TrainingSettings(
        optimizer=OPTIMIZER,
        beta=BETA,
        zero_stage=stage,
        param_dtype=dtype,
        seed=1,
        device="cpu",
        num_threads=1,
        timeout_s=120,
        gradient_checkpointing=stage == 3,
    )
