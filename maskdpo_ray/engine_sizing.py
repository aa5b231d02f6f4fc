"""What a vLLM engine needs of its memory: weights, room to work, and a KV cache for the answers under way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maskdpo_ray.config.schema import Config
from maskdpo_ray.engine_limits import BATCHED_TOKENS
from maskdpo_ray.model_shape import ModelShape
from maskdpo_ray.models.memory import Term, bytes_of

GIB = 2**30

_GPU_RUNTIME = int(1.5 * GIB)
"""CUDA's context, NCCL and captured graphs: an assumption."""


@dataclass(frozen=True)
class Engine:
    """An engine of any purpose; memory is that of one of its GPUs, or of the machine on a CPU."""

    shape: ModelShape
    dtype: str
    gpus: int
    """0 on a CPU."""
    max_len: int
    """Longest sequence, tokens."""
    max_num_seqs: int

    def kv_per_token(self) -> int:
        """Bytes of keys and values of one token, on one GPU; a bound where `shape.has_plain_cache` is off."""
        heads = math.ceil(self.shape.num_kv_heads / max(1, self.gpus))
        return 2 * self.shape.num_layers * heads * self.shape.head_dim * bytes_of(self.dtype)

    def terms(self) -> list[Term]:
        """All but the KV cache, and the KV cache of one sequence: the least with which vLLM starts."""
        width, shape, split = bytes_of(self.dtype), self.shape, max(1, self.gpus)
        tokens = BATCHED_TOKENS["cuda"] if self.gpus else self.max_len
        work = tokens * width * (4 * shape.hidden_size + (3 * shape.intermediate_size + shape.query_size) // split)
        logits = 8 * self.max_num_seqs * shape.vocab_size
        return [
            Term("weights" if split == 1 else f"weights / {split}", width * shape.parameters // split, split == 1),
            Term("activations and logits", work + logits),
            Term("CUDA, NCCL, graphs (assumed)", _GPU_RUNTIME if self.gpus else 0),
            Term(
                f"KV cache of one sequence of {self.max_len} tokens",
                self.kv_per_token() * self.max_len,
                shape.has_plain_cache,
            ),
        ]


@dataclass(frozen=True)
class InFlight:
    """Answers that an engine has under way, were all as long as allowed."""

    sequences: int
    tokens: int
    """In the KV cache; answers to one question share their prompt's."""


def in_flight(config: Config, prompt_tokens: int) -> InFlight:
    """The most of one rollout engine."""
    rollout, vllm = config.rollout, config.vllm
    samples = rollout.n_samples_per_prompt
    questions = math.ceil(config.in_flight(samples) / rollout.num_engines)
    sequences = min(vllm.max_num_seqs, questions * samples)
    prompts = math.ceil(sequences / samples) if vllm.enable_prefix_caching else sequences
    return InFlight(sequences, prompts * prompt_tokens + sequences * rollout.max_new_tokens)
