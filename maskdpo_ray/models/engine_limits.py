"""Limits of vLLM on a model and an engine's options together, checked before an engine starts.

From vLLM 0.29.0: `ModelConfig.verify_with_parallel_config` and `kv_cache_utils.check_enough_kv_cache_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.config.schema import BATCHED_TOKENS, Config
from maskdpo_ray.errors import require

_GIB = 2**30


def check(config: Config, model: Any, file: Path, max_len: int) -> None:
    """Refuse options that vLLM would refuse for an engine of this model.

    Args:
        model: the model's config, as transformers reads it from `file`.
        max_len: longest sequence of the run, tokens.

    Raises ConfigError, naming the option.
    """
    split, where = config.vllm.tensor_parallel_size, f"of {file}"
    for name, count in _split(model):
        expected = f"a divisor of {name}, {count}, {where}"
        # Fewer KV heads than GPUs are replicated instead.
        is_whole = count % split == 0 or (name == "num_key_value_heads" and split % count == 0)
        require(is_whole, "vllm.tensor_parallel_size", expected, split)
    if config.cluster.device != "cpu":
        return
    most = BATCHED_TOKENS["cpu"]
    require(max_len <= most, "vllm.max_model_len", f"at most {most} on a CPU, as a prompt is computed whole", max_len)
    each = _cache_bytes(model, 4 if config.engine_dtype == "float32" else 2)
    if each is not None:
        gib = config.vllm.cpu_kv_cache_gib
        room, needed = gib * _GIB // each, math.ceil(max_len * each / _GIB)
        expected = f"at most {room} (by default it is the model's limit), the longest sequence that fits into "
        expected += f"vllm.cpu_kv_cache_gib: {gib}, or {needed} there"
        require(max_len <= room, "vllm.max_model_len", expected, max_len)


def _split(model: Any) -> Iterator[tuple[str, int]]:
    """(name, count) of each quantity that is split over the GPUs of an engine."""
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = getattr(model, name, None)
        if type(count) is int and count > 0:
            yield name, count


def _cache_bytes(model: Any, width: int) -> int | None:
    """Bytes of KV cache per token; None if layers keep anything but keys and values of every head."""
    heads = getattr(model, "num_attention_heads", None)
    values = (
        getattr(model, "num_hidden_layers", None),
        getattr(model, "num_key_value_heads", None) or heads,
        getattr(model, "head_dim", None) or (getattr(model, "hidden_size", 0) // heads if heads else None),
    )
    differs = any(getattr(model, name, None) for name in ("kv_lora_rank", "num_kv_shared_layers", "global_head_dim"))
    if differs or not all(type(value) is int and value > 0 for value in values):
        return None
    return 2 * math.prod(map(int, values)) * width
