"""Weights in 4 bits: what they need is checked at the start, and their numbers are published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from maskdpo_ray.config.schema import ClusterConfig, Config, DeepspeedConfig, LoraConfig, ModelConfig
from maskdpo_ray.errors import ConfigError, ModelError
from maskdpo_ray.models import quantized

QLORA = Config(
    model=ModelConfig("m"),
    ds=DeepspeedConfig(load_in_4bit=True),
    lora=LoraConfig(rank=8),
    cluster=ClusterConfig(device="cuda"),
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cluster": ClusterConfig(device="cpu")}, r"false when cluster.device is cpu \(bitsandbytes needs a GPU\)"),
        ({"lora": LoraConfig()}, r"false without lora.rank \(weights in 4 bits can't be trained\)"),
        ({"ds": DeepspeedConfig(load_in_4bit=True, zero_stage=3)}, "false with ds.zero_stage 3"),
    ],
)
def test_where_it_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^ds.load_in_4bit: expected {expected}, got True$"):
        replace(QLORA, **changes)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    quantized.check(DeepspeedConfig())
    package = r"the package bitsandbytes \(pip install bitsandbytes\)"
    with pytest.raises(ConfigError, match=f"^ds.load_in_4bit: expected {package}, found none$"):
        quantized.check(QLORA.ds)
    with pytest.raises(ModelError, match=f"^ds.load_in_4bit: expected {package} on every node of a rank, found none$"):
        quantized.options(torch.device("cpu"))


def test_other_models_stay_as_they_are() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    found = quantized.state_dict(model)
    assert found.keys() == {"0.weight", "0.bias"} and found["0.weight"] is model[0].weight
    quantized.forget(model)


def test_the_numbers_of_4_bit_weights_are_published() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    plain = torch.nn.Linear(64, 32)
    layer = bnb.nn.Linear4bit(64, 32, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.load_state_dict(plain.state_dict())
    model = torch.nn.Sequential(layer.to("cpu"), torch.nn.Linear(32, 2))
    x = torch.randn(3, 64)
    layer(x)  # packs the weights, if nothing has yet
    found = quantized.state_dict(model)
    assert found.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"} and found["0.weight"].shape == (32, 64)
    error = (found["0.weight"].float() - plain.weight).norm() / plain.weight.norm()
    assert 0 < error < 0.15
    torch.testing.assert_close(layer(x), x @ found["0.weight"].float().T + found["0.bias"], rtol=0.05, atol=0.05)
