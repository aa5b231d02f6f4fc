"""Options that vLLM, Ray or W&B would refuse after the start are refused before it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_preflight import base_config

from maskdpo_ray.config import schema
from maskdpo_ray.config.schema import (
    ClusterConfig,
    Config,
    EvalConfig,
    LoggerConfig,
    ModelConfig,
    RolloutConfig,
    VllmConfig,
)
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.stages import preflight

MODEL = ModelConfig("m")
SECTIONS = {
    "rollout": RolloutConfig,
    "vllm": VllmConfig,
    "eval": EvalConfig,
    "cluster": ClusterConfig,
    "logger": LoggerConfig,
}


def config_with(option: str, value: Any) -> Config:
    section, name = option.split(".")
    return Config(model=MODEL, **{section: SECTIONS[section](**{name: value})})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("rollout.n_samples_per_prompt", 16385, "at most 16384"),
        ("rollout.n_samples_per_prompt", 20000, "at most 16384"),
        ("eval.n_samples_per_prompt", 16385, "at most 16384"),
        ("rollout.temperature", 2.01, "0.01 to 2"),
        ("rollout.temperature", 0.005, "0.01 to 2"),
        ("eval.temperature", 2.5, "0.01 to 2"),
        ("eval.temperature", 0.001, "0.01 to 2"),
        ("eval.top_k", 2**31, "less than 2.31"),
        ("rollout.top_k", 2**31, "less than 2.31"),
        ("vllm.max_num_seqs", 32769, "at most 32768"),
        ("cluster.gpus_per_annotator", 1.5, "a whole number where it is above 1"),
        ("cluster.gpus_per_evaluator", 2.25, "a whole number where it is above 1"),
        ("cluster.cpus_per_rank", 1e-5, "0, or at least 0.0001"),
        ("cluster.step_timeout_s", 0.5, "1 to 1e7"),
        ("cluster.start_timeout_s", 0.1, "1 to 1e7"),
        ("cluster.threads", 10**9, "1 to 1024"),
        ("logger.wandb_project", "a/b", "a name of 1 to 128 characters"),
        ("logger.wandb_project", "p" * 129, "a name of 1 to 128 characters"),
        ("logger.wandb_project", "", "a name of 1 to 128 characters"),
    ],
)
def test_refused(option: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: expected {expected}.*, got "):
        config_with(option, value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rollout.n_samples_per_prompt", 16384),
        ("rollout.temperature", 2.0),
        ("rollout.temperature", 0.01),
        ("eval.temperature", 0.0),
        ("rollout.top_k", -1),
        ("rollout.top_k", 10**6),
        ("vllm.max_num_seqs", 32768),
        ("cluster.gpus_per_annotator", 0.25),
        ("cluster.gpus_per_annotator", 2.0),
        ("cluster.cpus_per_rank", 1.5),
        ("cluster.cpus_per_rank", 0),
        ("logger.wandb_project", "my project-1"),
    ],
)
def test_taken(option: str, value: Any) -> None:
    config_with(option, value)


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
        schema.check_engine_limits(config, described, Path("config.json"), 10**6)
        return
    with pytest.raises(ConfigError, match=f"^vllm.tensor_parallel_size: expected a divisor of {expected} of config"):
        schema.check_engine_limits(config, described, Path("config.json"), 10**6)


def test_the_cache_of_a_cpu_holds_the_longest_sequence() -> None:
    """16 layers x keys and values x 4 heads of 64 x 2 bytes = 16 KiB a token: 64 Ki tokens a GiB, half in float32."""
    model, file = SimpleNamespace(**LLAMA), Path("config.json")
    config = Config(model=MODEL, vllm=VllmConfig(cpu_kv_cache_gib=1, dtype="float32"))
    assert schema._cache_bytes(model, 2) == 16 << 10
    schema.check_engine_limits(config, model, file, 32768)
    small = replace(config, vllm=replace(config.vllm, cpu_kv_cache_gib=1))
    double = SimpleNamespace(**{**LLAMA, "num_hidden_layers": 32})
    expected = "at most 16384 .* vllm.cpu_kv_cache_gib: 1, or 2 there, got 16385"
    schema.check_engine_limits(small, double, file, 16384)
    with pytest.raises(ConfigError, match=f"^vllm.max_model_len: expected {expected}"):
        schema.check_engine_limits(small, double, file, 16385)


def test_a_prompt_is_computed_whole_on_a_cpu() -> None:
    tiny = SimpleNamespace(**{**LLAMA, "num_hidden_layers": 1})
    with pytest.raises(ConfigError, match="^vllm.max_model_len: expected at most 32768 on a CPU.*, got 131072"):
        schema.check_engine_limits(Config(model=MODEL), tiny, Path("config.json"), 131072)


@pytest.mark.parametrize("model", [{"kv_lora_rank": 512}, {"num_kv_shared_layers": 4}, {"num_hidden_layers": None}])
def test_what_is_not_known_is_not_refused(model: dict[str, Any]) -> None:
    described = SimpleNamespace(**{**LLAMA, "num_hidden_layers": 10**6, **model})
    schema.check_engine_limits(Config(model=MODEL), described, Path("config.json"), 32768)


def test_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    """The preflight checks it: the tiny model has one KV head: 2 x 2 layers x 32 x 4 bytes per token."""
    config = base_config(tiny_model, tmp_path)
    preflight.check(config)
    on_gpus = replace(config, cluster=ClusterConfig(device="cuda"), vllm=VllmConfig(tensor_parallel_size=3))
    with pytest.raises(ConfigError, match="^vllm.tensor_parallel_size: expected a divisor of num_attention_heads, 2, "):
        preflight.check(on_gpus)


def test_every_share_is_checked() -> None:
    """The check covers a new cpus_per_ or gpus_per_ option by its name."""
    shares = [field.name for field in fields(ClusterConfig) if field.name.startswith(("cpus_per_", "gpus_per_"))]
    for name in shares:
        with pytest.raises(ConfigError, match=f"^cluster.{name}: "):
            config_with(f"cluster.{name}", 1e-6)
