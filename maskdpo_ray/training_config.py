"""The sections of the config that training reads: batches and schedule, optimizer, sharding, adapters, savings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskdpo_ray.requirement import require


@dataclass(frozen=True)
class TrainConfig:
    num_ranks: int = 1
    """DeepSpeed ranks, one Ray actor (and one GPU) each."""
    beta: float = 0.1
    """DPO's beta: how dear it is to leave the reference (Mask-DPO eq. 6)."""
    reference: Literal["initial", "previous"] = "previous"
    """Reference policy of an iteration: the one before the run, or the one before the iteration."""
    max_epochs: int = 3
    """Passes over an iteration's pairs."""
    batch_size: int = 64
    """Pairs per optimizer step, over all ranks."""
    micro_batch_size: int = 8
    """Pairs per forward pass and rank, at most; they are merged into one prefix tree."""
    max_tokens_per_gpu: int = 8192
    """Tokens that a rank computes per forward pass, at most, shared ones counted once; a pair that has more of them
    has a pass of its own."""
    lr_scheduler: Literal[
        "cosine", "cosine_with_min_lr", "linear", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"
    ] = "cosine"
    """Learning rate over an iteration's steps: a schedule of transformers.get_scheduler."""
    lr_warmup_ratio: float = 0.03
    """Share of the steps that warm up."""
    min_lr_ratio: float = 0.1
    """Lowest learning rate, as a share of the highest (only for `cosine_with_min_lr`)."""
    max_norm: float = 1.0
    """Gradient clipping; 0 for none."""
    save_steps: int = 50
    """Optimizer steps from one DeepSpeed checkpoint to the next; a stopped training resumes from it. -1 or 0: none."""

    def __post_init__(self) -> None:
        for name in ("num_ranks", "max_epochs", "batch_size", "micro_batch_size", "max_tokens_per_gpu"):
            require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        require(self.beta > 0, "train.beta", "above 0", self.beta)
        require(0 <= self.lr_warmup_ratio < 1, "train.lr_warmup_ratio", "0 to below 1", self.lr_warmup_ratio)
        require(0 <= self.min_lr_ratio <= 1, "train.min_lr_ratio", "0 to 1", self.min_lr_ratio)
        require(self.max_norm >= 0, "train.max_norm", "at least 0", self.max_norm)
        require(self.save_steps >= -1, "train.save_steps", "at least -1 (none)", self.save_steps)
        require(
            self.batch_size >= self.num_ranks,
            "train.batch_size",
            f"at least train.num_ranks ({self.num_ranks}): a pair for every rank",
            self.batch_size,
        )


@dataclass(frozen=True)
class AdamConfig:
    lr: float = 5e-6
    """Highest learning rate (Mask-DPO appendix A: 5e-6, for 8B)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "adam.lr", "above 0", self.lr)
        valid = all(0 <= b < 1 for b in self.betas)
        require(valid, "adam.betas", "two numbers from 0 to below 1", self.betas)
        require(self.eps > 0, "adam.eps", "above 0", self.eps)
        require(self.weight_decay >= 0, "adam.weight_decay", "at least 0", self.weight_decay)


@dataclass(frozen=True)
class DeepspeedConfig:
    zero_stage: Literal[2, 3] = 2
    """ZeRO stage: 2 shards gradients and optimizer state over the ranks, 3 the weights too."""
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    """Dtype of weights and activations; master weights are fp32 in any case."""
    adam_offload: bool = False
    """Keep the optimizer's state in CPU memory (GPU only)."""


@dataclass(frozen=True)
class LoraConfig:
    rank: int = 0
    """Train low-rank adapters of this rank beside frozen weights (LoRA); 0: train all weights."""
    alpha: int = 16
    """What an adapter adds is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the adapters."""
    target_modules: str = "all-linear"
    """Which modules get adapters: `all-linear`, or names separated by commas."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, "lora.rank", "at least 0 (0: none)", self.rank)
        require(self.alpha >= 1, "lora.alpha", "at least 1", self.alpha)
        require(0 <= self.dropout < 1, "lora.dropout", "0 to below 1", self.dropout)
        require(self.modules is None or all(self.modules), "lora.target_modules", "names", self.target_modules)

    @property
    def modules(self) -> list[str] | None:
        """`target_modules` one by one; None: all linear layers but the LM head."""
        names = [name.strip() for name in self.target_modules.split(",")]
        return None if names == ["all-linear"] else names

    def adapts(self, path: str) -> bool:
        """Whether a linear layer of this dotted path gets adapters."""
        return self.modules is None or any(means(name, path) for name in self.modules)


def means(name: str, path: str) -> bool:
    """Whether a name among `lora.target_modules` means the module of this dotted path: PEFT goes by its last parts."""
    return f".{path}".endswith(f".{name}")


@dataclass(frozen=True)
class SavingsConfig:
    """Work that a masked objective does not need, left out. Each keeps loss and gradients, up to rounding."""

    cut_tails: bool = True
    """Leave out the tokens after an answer's last one with weight."""
    head_at_targets: bool = True
    """Run the LM head only where the next token has weight."""
    reference_once: bool = True
    """Compute reference log-probs once per pair and iteration, and keep them on disk; off: in every step anew."""
    prefix_tree: bool = True
    """Compute what answers of a micro-batch begin with in common once; off: one padded row for each answer."""
    group_pairs: bool = True
    """Put the pairs of a step that share most into one micro-batch; off: in the order of the epoch."""
    lean_layers: bool = True
    """Keep less of norms and MLPs for the backward pass, and compute it again there."""
