"""Option values that vLLM, Ray and W&B refuse, reported before they start, naming the option.

Taken from vLLM 0.29.0 (`SamplingParams._verify_args`, `SchedulerConfig`, `ModelConfig.verify_with_parallel_config`,
`kv_cache_utils.check_enough_kv_cache_memory`), Ray 2.55.0 (`ray_option_utils`, `_raylet.prepare_resources`) and W&B
(`Settings.validate_project`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.requirement import require

if TYPE_CHECKING:
    from maskdpo_ray.config.schema import Config

BATCHED_TOKENS = {"cpu": 32768, "cuda": 8192}
"""Most tokens that an engine computes per step, by `cluster.device`. On a CPU a whole prompt must fit."""
_MOST_SAMPLES = 16384
_MOST_SEQUENCES = 32768
_TEMPERATURES = (0.01, 2.0)
"""Range of temperatures: vLLM refuses higher ones and clamps lower ones."""
_LEAST_SHARE = 1e-4
"""Smallest fraction of a resource that Ray counts."""
_NOT_IN_PROJECTS = "/\\#?%:"
_GIB = 2**30


def check(config: Config) -> None:
    """Raise ConfigError, naming the option, for a value that one of them would refuse for any model."""
    vllm, cluster, project = config.vllm, config.cluster, config.logger.wandb_project
    for section, sampling in (("rollout", config.rollout), ("eval", config.eval)):
        count, temperature, top_k = sampling.n_samples_per_prompt, sampling.temperature, sampling.top_k
        expected = f"at most {_MOST_SAMPLES}, as many as vLLM samples of a prompt"
        require(count <= _MOST_SAMPLES, f"{section}.n_samples_per_prompt", expected, count)
        lowest, highest = _TEMPERATURES
        expected = f"{lowest} to {highest:g}, which vLLM samples at"
        # In evaluation none means the value of rollouts, and 0 greedy.
        is_sampled = not temperature or lowest <= temperature <= highest
        require(is_sampled, f"{section}.temperature", expected, temperature)
        require((top_k or 0) < 2**31, f"{section}.top_k", "less than 2^31, or -1 (all)", top_k)
    require(vllm.max_num_seqs <= _MOST_SEQUENCES, "vllm.max_num_seqs", f"at most {_MOST_SEQUENCES}", vllm.max_num_seqs)
    for name, share in vars(cluster).items():
        if name.startswith(("cpus_per_", "gpus_per_")):
            require(share == 0 or share >= _LEAST_SHARE, f"cluster.{name}", f"0, or at least {_LEAST_SHARE}", share)
        if name.startswith("gpus_per_"):
            is_share = share <= 1 or share == int(share)
            require(
                is_share, f"cluster.{name}", "a whole number where it is above 1: Ray shares out single GPUs", share
            )
    is_name = bool(project.strip()) and len(project) <= 128 and not set(_NOT_IN_PROJECTS) & set(project)
    require(is_name, "logger.wandb_project", f"a name of 1 to 128 characters, none of {_NOT_IN_PROJECTS}", project)


def check_model(config: Config, model: Any, file: Path, max_len: int) -> None:
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
    layers, heads, size = values
    return 2 * layers * heads * size * width
