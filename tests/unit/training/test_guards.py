"""Guards that stop a training whose policy is computed or published wrongly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskdpo_ray.config.schema import Config, DeepspeedConfig, LoraConfig, ModelConfig, VllmConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import guards
from maskdpo_ray.training.guards import PublishedPolicy

# The first step.


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_first_logps_other_than_the_references_stop(dtype: str) -> None:
    off = guards.LOGPS[dtype]
    guards.check_first_step(0.0, dtype, 400)
    guards.check_first_step(off * 400, dtype, 400)
    guards.check_first_step(2 * off, dtype, 1)  # a token by itself may be off by more
    with pytest.raises(ModelError, match=r"^the first step's log-probs: .*, off by 1: "):
        guards.check_first_step(400.0, dtype, 400)
    with pytest.raises(ModelError, match="off by nan"):
        guards.check_first_step(math.nan, dtype, 5)


# A published policy.


def example(name: str) -> TrainingExample:
    return TrainingExample.of_pair(name, (1,), (2, 3), (4, 5, 6), (1.0, 0.5), (0.0, 1.0, 1.0))


def logps(chosen: list[float], rejected: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.float32(chosen), np.float32(rejected)


BEFORE = logps([-2, -2], [0, -2, -2])
TRAINED = logps([-1, -1], [0, -3, -3])  # margin: 1 + .5 + 2 = 3.5


def test_what_is_published_of_a_margin() -> None:
    published = logps([-1, -2], [0, -3, -2])  # 1 + 1 = 2; of four tokens two are off by one
    found = PublishedPolicy.compare([example("a")] * 2, [TRAINED] * 2, [published, TRAINED], [BEFORE] * 2)
    assert found.metrics() == {"published_logp_error": 2 / 8, "published_margin": (2 + 3.5) / 7}
    same = PublishedPolicy.compare([example("a")], [BEFORE], [BEFORE], [BEFORE])
    assert same.metrics() == {"published_logp_error": 0.0}  # no trained margin, so no share


def config_of(param_dtype: str, engine_dtype: str, rank: int = 0) -> Config:
    return Config(
        model=ModelConfig("m"),
        ds=DeepspeedConfig(param_dtype=param_dtype),
        vllm=VllmConfig(dtype=engine_dtype),
        lora=LoraConfig(rank=rank),
    )


def test_rounding_in_float32_is_less() -> None:
    config = config_of("fp32", "float32")
    PublishedPolicy(1, 9e-4, 0.0, 0.0, 0.0).check("policy", config)
    with pytest.raises(ModelError, match="within 0.001 nats"):
        PublishedPolicy(1, 2e-3, 0.0, 0.0, 0.0).check("policy", config)


def moved(shift: float, noise_of: float, seed: int, length: int = 50) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probs of eight pairs that training moved by `shift` nats a token, but for errors of `noise_of`."""
    rng = np.random.default_rng(seed)
    sides = [rng.normal(sign * shift, noise_of, (8, length)) - 2 for sign in (1, -1)]
    return [(chosen, rejected) for chosen, rejected in zip(*np.float32(sides), strict=True)]


LONG = [TrainingExample.of_pair(str(i), (1,), (2,) * 50, (3,) * 50, (1.0,) * 50, (1.0,) * 50) for i in range(8)]


@pytest.mark.parametrize("share", [0.0, 0.3, -1.0])
def test_a_policy_without_what_was_learned_stops(share: float) -> None:
    """Model as without its adapters: log-probs are off by less than bfloat16's rounding."""
    reference, trained, published = moved(0, 0, 0), moved(0.05, 0.02, 1), moved(0.05 * share, 0.02, 2)
    found, config = PublishedPolicy.compare(LONG, trained, published, reference), config_of("bf16", "bfloat16")
    with pytest.raises(ModelError, match=r"^policy: expected what training added .*, loaded back it is -?\d"):
        found.check("policy", config)


def test_a_policy_without_most_that_was_learned_is_told_where_engines_round(capsys: pytest.CaptureFixture[str]) -> None:
    reference, trained = moved(0, 0, 0), moved(0.05, 0.02, 1)
    found = PublishedPolicy.compare(LONG, trained, reference, reference)
    found.check("policy", config_of("fp32", "bfloat16"))
    assert "set vllm.dtype to float32, or ds.param_dtype to bf16" in "".join(capsys.readouterr())
    with pytest.raises(ModelError):  # adapters are merged for what engines hold
        found.check("policy", config_of("fp32", "bfloat16", 8))


@pytest.mark.parametrize("shift", [0.0, 0.001, 0.05])
def test_rounding_stops_no_policy(shift: float) -> None:
    """However little was learned; and a share of what is nearly nothing is not logged."""
    reference, config = moved(0, 0, 0), config_of("bf16", "bfloat16")
    for seed in range(50):
        trained, published = moved(shift, 0.1, seed), moved(shift, 0.1, seed + 100)
        found = PublishedPolicy.compare(LONG, trained, published, reference)
        found.check("policy", config)
        share = found.metrics().get("published_margin", 1.0)
        assert abs(share - 1) < 4
