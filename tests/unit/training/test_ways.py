"""Which models a prefix tree serves, told by config and code, and longrope's factors."""

from __future__ import annotations

from typing import Any

import families
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.training import tree_attention, ways
from maskdpo_ray.training.ways import Way

FULL, SLIDING = families.FULL, families.SLIDING
OBSTACLES = {
    "llama 4": "attn_temperature_tuning: scores depend on the place in the row",
    "qwen3-next": "Qwen3NextForCausalLM has recurrent layers",
    "qwen3.5": "Qwen3_5ForCausalLM has recurrent layers",
    "jamba": "JambaForCausalLM has recurrent layers",
    "mamba": "MambaForCausalLM has recurrent layers",
    "mamba 2": "Mamba2ForCausalLM has recurrent layers",
    "bamba": "BambaForCausalLM has recurrent layers",
    "falcon alibi": "alibi: positions are counted along the row",
    "bloom": "BloomForCausalLM takes no position_ids",
    "lfm2": "layer_types: conv",
    "minimax": "layer_types: linear_attention",
}
SEEN_BY_A_RANK = {"phi longrope", "roberta"}
"""Nothing in config or code is against a tree: longrope is fixed, and RoBERTa's positions show in what it computes."""


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_way_of_a_family(name: str) -> None:
    found = ways.of_config(families.config(name), 512)
    assert found.obstacle == OBSTACLES.get(name)
    assert (found.obstacle is None) == (name in {*families.TREES, *SEEN_BY_A_RANK})
    assert found.is_eager == (name in ("gemma 2", "gpt-oss")) and found.takes_positions


TWO = {**families.SHAPE, **families.EXPERTS, "moe_intermediate_size": 16}
DENSE = families.SHAPE


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**DENSE, sliding_window=None),
        MistralConfig(**DENSE, sliding_window=512),
        Qwen2Config(**DENSE, use_sliding_window=False, sliding_window=64),
        Qwen2MoeConfig(**TWO, use_sliding_window=False, sliding_window=64),
        Qwen3Config(**DENSE, use_sliding_window=True, sliding_window=64, max_window_layers=2),
        Gemma3TextConfig(**DENSE, sliding_window=64, layer_types=[FULL, FULL]),
        Gemma3TextConfig(**DENSE, sliding_window=512, layer_types=[SLIDING, FULL]),
    ],
    ids=lambda config: config.model_type,
)
def test_windows_that_hold_every_sequence(config: Any) -> None:
    assert ways.of_config(config, 512).obstacle is None


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**DENSE, sliding_window=511),
        Qwen2Config(**DENSE, use_sliding_window=True, sliding_window=64, max_window_layers=1),
        Qwen3MoeConfig(**TWO, use_sliding_window=True, sliding_window=64),
        Gemma3TextConfig(**DENSE, sliding_window=511, layer_types=[SLIDING, FULL]),
    ],
    ids=lambda config: config.model_type,
)
def test_windows_that_do_not(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree has them where the model tells its attention; else padded rows, whose masks are transformers' own."""
    assert ways.of_config(config, 512).obstacle is None
    real = tree_attention.attention

    def untold(*arguments: Any, sliding_window: Any = None, **options: Any) -> Any:
        return real(*arguments, **options)

    monkeypatch.setattr(tree_attention, "attention", untold)
    window = f"sliding_window: {config.sliding_window}, of which the model's attention is not told"
    assert ways.of_config(config, 512).obstacle == window


def test_savings_and_a_line_for_the_user() -> None:
    wanted = SavingsConfig()
    assert Way().savings(wanted) == wanted
    assert Way().describe(wanted).startswith("training: as prefix trees,")
    rows = Way("alibi", takes_positions=False)
    assert rows.savings(wanted) == SavingsConfig(prefix_tree=False, head_at_targets=False)
    assert rows.describe(wanted) == "training: on padded rows, one for each answer: alibi"
    off = SavingsConfig(prefix_tree=False)
    assert Way().describe(off) == "training: on padded rows, one for each answer: savings.prefix_tree is off"


@pytest.mark.parametrize(("max_len", "factor"), [(16, 1.0), (17, 4.0)])
def test_longrope_takes_the_factors_of_the_longest_sequence(max_len: int, factor: float) -> None:
    """transformers' own factors hang on the longest row of a pass; the same model with one factor is the measure."""
    torch.manual_seed(0)
    rope = {"rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    shape = {**families.SHAPE, "original_max_position_embeddings": 16}
    model = AutoModelForCausalLM.from_config(Phi3Config(**shape, rope_parameters=rope)).eval()
    constant = {**rope, "short_factor": [factor] * 4, "long_factor": [factor] * 4}
    expected = AutoModelForCausalLM.from_config(Phi3Config(**shape, rope_parameters=constant)).eval()
    expected.load_state_dict(model.state_dict())
    ways.fix_longrope(model, max_len)
    for size in (10, 30, 10):
        ids = torch.arange(3, 3 + size)[None]
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, expected(ids).logits)


def test_longrope_of_a_type_of_layers() -> None:
    rope = {"rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Gemma3TextConfig(
        **DENSE,
        head_dim=8,
        layer_types=[FULL, SLIDING],
        rope_parameters={
            FULL: {**rope, "original_max_position_embeddings": 16, "factor": 8.0},
            SLIDING: {"rope_theta": 1e4, "rope_type": "default"},
        },
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(ids).logits
        ways.fix_longrope(model, 16)
        torch.testing.assert_close(model(ids).logits, before)
        ways.fix_longrope(model, 512)  # fixed already
        torch.testing.assert_close(model(ids).logits, before)
        other = AutoModelForCausalLM.from_config(config).eval()
        other.load_state_dict(model.state_dict())
        ways.fix_longrope(other, 17)
        assert (other(ids).logits - before).abs().max() > 1e-4
