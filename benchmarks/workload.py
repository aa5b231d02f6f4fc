"""One training that every contender of `benchmarks/training.py` does: the pairs, their order, and the optimizer."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskdpo_ray.data.jsonl import records
from maskdpo_ray.pairing import examples
from maskdpo_ray.pairing.masks import MaskPolicy
from maskdpo_ray.records import PreferencePair, TrainingExample
from maskdpo_ray.training import batches as batching

MASK_EOS = "chosen"
"""`mask.eos` of configs/recipes/mask_dpo.yaml."""


@dataclass(frozen=True)
class Workload:
    """Pairs to train on, and how. Crosses to a contender's process as JSON."""

    pairs: str
    """A file of pairs of ours."""
    model: str
    num_pairs: int
    """The first ones of the file."""
    batch_size: int = 16
    """Pairs per optimizer step."""
    epochs: int = 3
    lr: float = 6e-5
    beta: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float = 1.0
    lr_scheduler: str = "cosine"
    seed: int = 1
    dtype: str = "fp32"
    threads: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    """Options of one contender: micro-batch size, our savings."""

    @classmethod
    def from_json(cls, text: str) -> Workload:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "betas": tuple(values["betas"])})

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    def read(self) -> list[PreferencePair]:
        """The pairs. Raises ValueError when the file holds too few, or the last batch would be smaller."""
        pairs = [pair for _, pair in records(PreferencePair, Path(self.pairs))][: self.num_pairs]
        if len(pairs) < self.num_pairs:
            raise ValueError(f"{self.pairs}: expected {self.num_pairs} pairs, got {len(pairs)}")
        if self.num_pairs % self.batch_size:
            raise ValueError(f"expected whole batches of {self.batch_size}, got {self.num_pairs} pairs")
        return pairs

    def examples(self, pairs: list[PreferencePair], mask: str, tokenizer: Any) -> list[TrainingExample]:
        """The pairs with the weights of a mask policy; under `vanilla` every token has weight 1, EOS too."""
        eos = "keep" if mask == "vanilla" else MASK_EOS
        policy = MaskPolicy.from_config(mask)
        return [examples.make_example(pair, tokenizer, policy, eos, number) for number, pair in enumerate(pairs)]

    def order(self) -> list[list[int]]:
        """Indices of the pairs in the order of our own training, one list an epoch."""
        batches = list(batching.epoch_batches(self.num_pairs, self.batch_size, self.epochs, self.seed))
        per_epoch = self.num_pairs // self.batch_size
        return [
            [index for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for index in batch]
            for epoch in range(self.epochs)
        ]

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return batching.num_steps(self.num_pairs, self.batch_size, self.epochs)


@dataclass(frozen=True)
class Outcome:
    """Figures of one contender's process."""

    seconds: float
    """Reference log-probs and all steps."""
    reference_seconds: float
    """Seconds before the first step; 0 where the reference runs in each step."""
    loading_seconds: float
    """Not counted above: start-up, loading models, making the optimizer."""
    peak_rss: int
    """Bytes, of the process that trains, over its whole life."""
    losses: list[float]
    """Loss of each optimizer step."""
    details: dict[str, Any] = field(default_factory=dict)
