"""Adapters are on linear layers only, and the published policy is the trained one, in bfloat16 too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from actors import strategy
from maskdpo_ray.config.schema import LoraConfig

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None, "num_experts_per_tok": 2,
}  # fmt: skip
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": None}
MLA = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}  # fmt: skip
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
MODELS: dict[str, tuple[Any, set[str]]] = {
    "dense": (LlamaConfig(**SHAPE, attention_bias=True), ATTENTION | MLP),
    "tied": (LlamaConfig(**SHAPE, tie_word_embeddings=True), ATTENTION | MLP),
    "conv1d": (GPT2Config(**GPT2), {"c_attn", "c_proj", "c_fc"}),
    "mixtral": (MixtralConfig(**SHAPE, num_local_experts=4), ATTENTION),
    "qwen3_moe": (Qwen3MoeConfig(**SHAPE, num_experts=4, moe_intermediate_size=24), ATTENTION),
    "qwen2_moe": (
        Qwen2MoeConfig(**SHAPE, num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=40),
        ATTENTION | MLP | {"shared_expert_gate"},
    ),
    "olmoe": (OlmoeConfig(**SHAPE, num_experts=4), ATTENTION),
    "phimoe": (PhimoeConfig(**SHAPE, num_local_experts=4), ATTENTION),
    "deepseek_v3": (
        DeepseekV3Config(**{**SHAPE, **MLA}),
        {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"} | MLP,
    ),
}
"""Name -> (config, names of the layers that get adapters). The tensors of experts are no linear layers."""
TOKENS = torch.randint(60, (3, 20), generator=torch.Generator().manual_seed(4))


def trained(config: Any, lora: LoraConfig, dtype: torch.dtype = torch.float32) -> Any:
    """A random model with adapters that change it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        wrapped = strategy.wrap(model, lora)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return wrapped.eval()


def logps(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.float().log_softmax(-1)


@pytest.mark.parametrize("name", MODELS)
def test_a_published_policy_is_the_trained_one(name: str, tmp_path: Path) -> None:
    config, expected = MODELS[name]
    lora = LoraConfig(rank=3, alpha=12)
    model = trained(config, lora)
    assert {path.rpartition(".")[2] for path in strategy._layers(model)} == expected
    with model.disable_adapter():
        before = logps(model)
    weights = strategy.merged(model, model.state_dict(), "float32", 0)
    model.get_base_model().save_pretrained(tmp_path, state_dict=weights)
    published, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    torch.testing.assert_close(logps(published.eval()), logps(model), rtol=0, atol=1e-5)
    assert (logps(model) - before).abs().max() > 0.1  # the adapters do something


def test_dropout_is_of_adapters_alone() -> None:
    model = trained(MODELS["qwen3_moe"][0], LoraConfig(rank=3, dropout=0.5))
    assert torch.equal(logps(model), logps(model))
    for module in strategy.dropouts(model):
        module.train()
    assert not torch.equal(logps(model), logps(model))


def test_names_mean_the_layers_that_have_them() -> None:
    model = trained(MODELS["qwen2_moe"][0], LoraConfig(rank=3, target_modules="gate_proj,layers.1.self_attn.q_proj"))
    paths = {"model.layers.0.mlp.shared_expert.gate_proj", "model.layers.1.mlp.shared_expert.gate_proj"}
    assert strategy._layers(model).keys() == paths | {"model.layers.1.self_attn.q_proj"}


@pytest.mark.parametrize("size", [3e-4, 1e-3])
def test_small_changes_of_bfloat16_weights_are_not_lost(size: float) -> None:
    """A change of at most a hundredth of a bfloat16 step per weight, which rounding to nearest loses."""
    config = LlamaConfig(**{**SHAPE, "hidden_size": 512, "num_hidden_layers": 1, "vocab_size": 60})
    model = trained(config, LoraConfig(rank=4, alpha=4), torch.bfloat16)
    path = "model.layers.0.self_attn.q_proj"
    layer = strategy._layers(model)[path]
    base = layer.base_layer.weight.float()
    factors = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    with torch.no_grad():
        factors[1].mul_(size * base.abs().mean() / (factors[1] @ factors[0]).float().abs().mean())
    delta = factors[1].float() @ factors[0].float()
    published = strategy.merged(model, model.state_dict(), "bfloat16", 1)[f"{path}.weight"]
    assert published.dtype == torch.bfloat16

    def kept(weight: torch.Tensor) -> float:
        """Share of the change that is kept, projected on it."""
        return (((weight.float() - base) * delta).sum() / delta.square().sum()).item()

    assert kept((base + delta).bfloat16()) < 0.75
    assert kept(published) == pytest.approx(1, abs=0.05)
