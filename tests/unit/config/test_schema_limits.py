"""Values that vLLM, Ray or W&B would refuse after the start are refused before it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from maskdpo_ray.config.schema import (
    ClusterConfig,
    Config,
    EvalConfig,
    HubConfig,
    LoggerConfig,
    ModelConfig,
    RolloutConfig,
    VllmConfig,
)
from maskdpo_ray.errors import ConfigError

MODEL = ModelConfig("m")
NO_REPOSITORIES = (
    *("name", "org/name/x", "org/name@main", "hf://org/name", "org/a--b", "org/a..b", "org/a.git", "/tmp/x", "org/a b"),
    *("datasets/name", "", "org/", f"org/{'n' * 93}"),
)
SECTIONS = {
    "rollout": RolloutConfig,
    "vllm": VllmConfig,
    "eval": EvalConfig,
    "cluster": ClusterConfig,
    "logger": LoggerConfig,
    "hub": HubConfig,
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
        ("eval.top_k", 2**31, "1 to 2.31-1, or -1 "),
        ("rollout.top_k", 2**31, "1 to 2.31-1, or -1 "),
        ("vllm.max_num_seqs", 32769, "at most 32768"),
        ("cluster.gpus_per_annotator", 1.5, "a whole number where it is above 1"),
        ("cluster.gpus_per_evaluator", 2.25, "a whole number where it is above 1"),
        ("cluster.cpus_per_rank", 1e-5, "0, or at least 0.0001"),
        ("cluster.step_timeout_s", 0.5, "1 to 1e7"),
        ("cluster.start_timeout_s", 0.1, "1 to 1e7"),
        ("cluster.threads", 10**9, "1 to 1024"),
        ("logger.wandb_project", "a/b", "a name of 1 to 128 characters"),
        *(("hub.push", name, "a repository of the Hugging Face Hub, org/name") for name in NO_REPOSITORIES),
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
        ("hub.push", "my-org/My_model.v1"),
    ],
)
def test_taken(option: str, value: Any) -> None:
    config_with(option, value)


def test_engines_that_answer_while_ranks_train_are_not_colocated() -> None:
    config = config_with("cluster.colocate", True)
    with pytest.raises(ConfigError) as caught:
        replace(config, rollout=RolloutConfig(ahead=1))
    assert str(caught.value) == (
        "cluster.colocate: expected false with rollout.ahead 1, for which engines answer while ranks train, got True"
    )


def test_every_share_is_checked() -> None:
    """The check covers a new cpus_per_ or gpus_per_ option by its name."""
    shares = [field.name for field in fields(ClusterConfig) if field.name.startswith(("cpus_per_", "gpus_per_"))]
    for name in shares:
        with pytest.raises(ConfigError, match=f"^cluster.{name}: "):
            config_with(f"cluster.{name}", 1e-6)
