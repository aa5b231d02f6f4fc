"""Settings of one group of training ranks as plain values; maskdpo_ray/config/schema.py documents each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actors.strategy import OptimizerSettings
from maskdpo_ray.training_config import LoraConfig, SavingsConfig

DTYPES: dict[str, Literal["bfloat16", "float32"]] = {"bf16": "bfloat16", "fp32": "float32"}
"""Config dtype -> torch's name."""


@dataclass(frozen=True)
class TrainingSettings:
    optimizer: OptimizerSettings
    beta: float
    zero_stage: int
    param_dtype: Literal["bf16", "fp32"]
    seed: int
    device: Literal["cpu", "cuda"]
    num_threads: int
    timeout_s: float
    adam_offload: bool = False
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    chat_template: str | None = None
    lora: LoraConfig = LoraConfig()
    savings: SavingsConfig = SavingsConfig()
    engine_dtype: Literal["bfloat16", "float32"] = "float32"
    """Dtype of the weights in engines, torch's name."""

    @property
    def sampled_dtype(self) -> Literal["bfloat16", "float32"]:
        """The coarser of the published dtype and the engines' dtype, torch's name."""
        return "bfloat16" if "bfloat16" in (DTYPES[self.param_dtype], self.engine_dtype) else "float32"
