"""Options that vLLM would refuse for a model are refused before an engine starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_preflight import base_config

from maskdpo_ray.config.schema import ClusterConfig, Config, ModelConfig, VllmConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.models import engine_limits
from maskdpo_ray.stages import preflight

MODEL = ModelConfig("m")
LLAMA = {
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_hidden_layers": 16,
    "hidden_size": 768,
    "intermediate_size": 2048,
}


@pytest.mark.parametrize(
    ("model", "split", "expected"),
    [
        ({}, 4, None),
        ({}, 3, "num_key_value_heads, 4,"),
        ({}, 5, "num_attention_heads, 12,"),
        ({"num_key_value_heads": 1}, 12, None if 2048 % 12 == 0 else "intermediate_size, 2048,"),
        ({"num_key_value_heads": 2}, 4, None),  # repeated on two GPUs each
        ({"intermediate_size": 2050}, 4, "intermediate_size, 2050,"),
    ],
)
def test_gpus_share_out_whole_heads(model: dict[str, int], split: int, expected: str | None) -> None:
    config = Config(model=MODEL, cluster=ClusterConfig(device="cuda"), vllm=VllmConfig(tensor_parallel_size=split))
    described = SimpleNamespace(**{**LLAMA, **model})
    if expected is None:
        engine_limits.check(config, described, Path("config.json"), 10**6)
        return
    with pytest.raises(ConfigError, match=f"^vllm.tensor_parallel_size: expected a divisor of {expected} of config"):
        engine_limits.check(config, described, Path("config.json"), 10**6)


def test_the_cache_of_a_cpu_holds_the_longest_sequence() -> None:
    """16 layers x keys and values x 4 heads of 64 x 2 bytes = 16 KiB a token: 64 Ki tokens a GiB, half in float32."""
    model, file = SimpleNamespace(**LLAMA), Path("config.json")
    config = Config(model=MODEL, vllm=VllmConfig(cpu_kv_cache_gib=1, dtype="float32"))
    assert engine_limits._cache_bytes(model, 2) == 16 << 10
    engine_limits.check(config, model, file, 32768)
    small = replace(config, vllm=replace(config.vllm, cpu_kv_cache_gib=1))
    double = SimpleNamespace(**{**LLAMA, "num_hidden_layers": 32})
    expected = "at most 16384 .* vllm.cpu_kv_cache_gib: 1, or 2 there, got 16385"
    engine_limits.check(small, double, file, 16384)
    with pytest.raises(ConfigError, match=f"^vllm.max_model_len: expected {expected}"):
        engine_limits.check(small, double, file, 16385)


def test_a_prompt_is_computed_whole_on_a_cpu() -> None:
    tiny = SimpleNamespace(**{**LLAMA, "num_hidden_layers": 1})
    with pytest.raises(ConfigError, match="^vllm.max_model_len: expected at most 32768 on a CPU.*, got 131072"):
        engine_limits.check(Config(model=MODEL), tiny, Path("config.json"), 131072)


@pytest.mark.parametrize("model", [{"kv_lora_rank": 512}, {"num_kv_shared_layers": 4}, {"num_hidden_layers": None}])
def test_what_is_not_known_is_not_refused(model: dict[str, Any]) -> None:
    described = SimpleNamespace(**{**LLAMA, "num_hidden_layers": 10**6, **model})
    engine_limits.check(Config(model=MODEL), described, Path("config.json"), 32768)


def test_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    """The preflight checks it: the tiny model has one KV head: 2 x 2 layers x 32 x 4 bytes per token."""
    config = base_config(tiny_model, tmp_path)
    preflight.check(config)
    on_gpus = replace(config, cluster=ClusterConfig(device="cuda"), vllm=VllmConfig(tensor_parallel_size=3))
    with pytest.raises(ConfigError, match="^vllm.tensor_parallel_size: expected a divisor of num_attention_heads, 2, "):
        preflight.check(on_gpus)
