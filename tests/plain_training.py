"""Shared by tests of real training ranks: pairs, a config, ranks, and log-probs computed in the plainest way."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from actors.training import TrainingRank
from maskdpo_ray.config.schema import AdamConfig, ClusterConfig, Config, DeepspeedConfig, ModelConfig, TrainConfig
from maskdpo_ray.records import ResponseLogps, TrainingExample
from maskdpo_ray.training import reference
from maskdpo_ray.training.example_store import ExampleStore

BETA = 0.5
# A large eps: AdamW forgives gradients that are wrong by a factor otherwise, and the tests would too.
ADAM = AdamConfig(lr=2e-3, eps=1e-2, weight_decay=0.1)
TRAIN = TrainConfig(beta=BETA, micro_batch_size=2, lr_warmup_ratio=0.2)
# Five pairs over two ranks: shares of three and two, micro-batches of two: two passes and one.
# The batch of one pair leaves the second rank empty-handed.
BATCHES = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [2], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]
LR = [0.0, 1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 + math.cos(3 * math.pi / 4))]


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
            TrainingExample.of_pair(f"q{index}", prompt, chosen, rejected, weights(len(chosen)), weights(len(rejected)))
        )
    return result


def padded_logps(model: Any, pairs: list[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs, weights) [2B, T], chosen rows first: one right-padded row per answer, all logits, no tricks."""
    sides = [(e.prompt_token_ids, e.responses[0].token_ids, e.responses[0].weights) for e in pairs]
    sides += [(e.prompt_token_ids, e.responses[1].token_ids, e.responses[1].weights) for e in pairs]
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
        before, _ = padded_logps(model, pairs)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": ADAM.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=ADAM.betas,
        eps=ADAM.eps,
    )
    steps = []
    for batch, lr in zip(BATCHES, LR, strict=True):
        logps, weights = padded_logps(model, [pairs[i] for i in batch])
        rows = [*batch, *(len(pairs) + i for i in batch)]
        rewards = BETA * (weights * (logps - before[rows, : weights.shape[1]])).sum(-1)
        chosen, rejected = rewards[: len(batch)], rewards[len(batch) :]
        loss = -F.logsigmoid(chosen - rejected).mean()
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.max_norm)
        for group in adam.param_groups:
            group["lr"] = lr * ADAM.lr
        adam.step()
        steps.append(
            {
                "loss": loss.item(),
                "accuracy": (chosen > rejected).float().mean().item(),
                "chosen_reward": chosen.mean().item(),
                "rejected_reward": rejected.mean().item(),
                "tokens": float((weights > 0).sum()),
                "grad_norm": norm.item(),
                "lr": lr * ADAM.lr,
            }
        )
    return {"steps": steps, "weights": dict(model.named_parameters()), "reference": before}


def config(stage: int, dtype: str) -> Config:
    return Config(
        model=ModelConfig("model", gradient_checkpointing_enable=stage == 3),
        train=TRAIN,
        adam=ADAM,
        ds=DeepspeedConfig(zero_stage=stage, param_dtype=dtype),
        cluster=ClusterConfig(step_timeout_s=120),
    )


class Member:
    """A rank that is driven in its own process; every rank of the group is, in the same way."""

    def __init__(
        self, config: Config, rank: int, world: int, port: int, folder: str, examples: Sequence[TrainingExample]
    ) -> None:
        self.trainer = TrainingRank(config, rank, world)
        self.trainer.setup("127.0.0.1", port)
        self._folder = Path(folder) / f"rank-{rank}"
        self.use(config, examples)

    def use(self, config: Config, examples: Sequence[TrainingExample]) -> None:
        """Train on other examples from now on, by another config."""
        self._config = config
        self._store = ExampleStore.write(self._folder, examples)

    def begin(
        self,
        model: str,
        num_steps: int,
        seed: int = 0,
        logps: Sequence[ResponseLogps] | None = None,
        reference_path: str | None = None,
        starts_at_reference: bool = False,
    ) -> None:
        """Begin a training against `logps`, or against `reference_path` in each step."""
        file = None
        if logps is not None:
            file = str(reference.save(self._folder / "logps", self._store, logps, "").path)
        path = str(self._store.path)
        self.trainer.begin(self._config, model, path, num_steps, seed, reference_path, file, starts_at_reference)

    def steps(self, batches: Iterable[list[int]]) -> list[dict[str, float]]:
        """Metrics of a step on each batch."""
        return [self.trainer.train_step(batch) for batch in batches]

    def logps(self, path: str | None = None) -> list[ResponseLogps]:
        """Log-probs of all examples, each rank's share put together: of the policy, or of the one at `path`."""
        return self._whole(self.trainer.reference_logps(str(self._store.path), range(len(self._store)), path))

    def published_logps(self, path: str) -> list[ResponseLogps]:
        return self._whole(self.trainer.published_logps(str(self._store.path), range(len(self._store)), path))

    @staticmethod
    def _whole(share: dict[int, ResponseLogps]) -> list[ResponseLogps]:
        shares: list[dict[int, ResponseLogps]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(shares, share)
        found = {index: pair for each in shares for index, pair in each.items()}
        assert len(found) == sum(map(len, shares))
        return [found[index] for index in range(len(found))]
