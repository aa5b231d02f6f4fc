"""Memory from shapes: parameters as published, sums written out by hand, and what must grow with what."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config.schema import (
    ClusterConfig,
    Config,
    DeepspeedConfig,
    LoraConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    SavingsConfig,
    TrainConfig,
    VllmConfig,
)
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.models import memory
from maskdpo_ray.models import shape as model_shape
from maskdpo_ray.models.memory import Engine, Pass, TrainingRank, in_flight, largest_pass
from maskdpo_ray.models.shape import SIZES, ModelShape

PUBLISHED = {
    "135m": 134_515_008,
    "360m": 361_821_120,
    "1.7b": 1_711_376_384,
    "1b": 1_235_814_400,
    "3b": 3_212_749_824,
    "8b": 8_030_261_248,
    "70b": 70_553_706_496,
    "0.5b": 494_032_768,
    "1.5b": 1_543_714_304,
    "7b": 7_615_616_512,
    "14b": 14_770_033_664,
    "32b": 32_763_876_352,
    "72b": 72_706_203_648,
    "internlm2-7b": 7_737_708_544,
}
"""Elements of the published safetensors, tied ones once."""
TINY = ModelShape("tiny", 8, 16, 2, 4, 2, 2, 32, True, 64)
LAYER = [64, 32, 32, 64, 128, 128, 128, 8, 8]  # q, k, v, o, gate, up, down and two norms
PARAMETERS = 32 * 8 + 2 * sum(LAYER) + 8


def config(shape: str = "model", **sections: Any) -> Config:
    return Config(model=ModelConfig(shape), **sections)


def rank(shape: ModelShape, of: Config, tokens: int = 10, targets: int = 5) -> TrainingRank:
    return TrainingRank(shape, of, Pass(tokens, targets))


def sizes(moment: memory.Moment) -> dict[str, int]:
    return {term.name: term.size for term in moment.terms}


def test_parameters_are_the_published_ones() -> None:
    assert {name: shape.parameters for name, shape in SIZES.items()} == PUBLISHED


def test_parameters_by_hand() -> None:
    assert TINY.tensors() == [256, *LAYER, *LAYER, 8]
    assert dataclasses.replace(TINY, is_tied=False).parameters == TINY.parameters + 256


def test_adapters_are_those_of_peft() -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=32,
    )  # fmt: skip
    for modules in ("all-linear", "q_proj,v_proj", "self_attn.q_proj, layers.1.mlp.up_proj", "o_proj,lm_head"):
        lora = LoraConfig(rank=3, target_modules=modules)
        names = lora.modules or modules
        model = get_peft_model(LlamaForCausalLM(llama), PeftConfig(r=3, target_modules=names, task_type="CAUSAL_LM"))
        trained = [p.numel() for p in model.parameters() if p.requires_grad]
        assert sorted(TINY.adapters(lora)) == sorted(trained)


@pytest.mark.parametrize(("stage", "dtype", "width"), [(2, "bf16", 2), (3, "bf16", 2), (2, "fp32", 4)])
def test_what_lasts_by_hand(stage: int, dtype: str, width: int) -> None:
    ds, train = DeepspeedConfig(zero_stage=stage, param_dtype=dtype), TrainConfig(num_ranks=4)
    found = {term.name: term.size for term in rank(TINY, config(ds=ds, train=train)).lasting()}
    share = PARAMETERS / 4
    expected = {"fp32 master weights": 4 * share, "Adam's moments": 8 * share}
    if stage == 2:
        expected["weights"] = width * PARAMETERS
    else:  # smaller than 100,000 elements, so whole, too
        expected |= {"weights": width * share, "fp32 gradients": 4 * share, "small weights, held whole": 2 * PARAMETERS}
    assert found == expected


def test_gradients_by_hand() -> None:
    """A rank keeps gradients of whole tensors: of two ranks the first holds the embedding and most of layer one."""
    ds = DeepspeedConfig(zero_stage=2)
    moments = rank(TINY, config(ds=ds, train=TrainConfig(num_ranks=2, batch_size=64))).moments()
    backward = sizes(moments[0])
    half, held, start = PARAMETERS / 2, [0, 0], 0
    for size in TINY.tensors():
        held[0] += size * (start < half)
        held[1] += size * (start + size > half)
        start += size
    assert backward["gradients of this rank's share"] == 2 * 2 * max(held)
    assert backward["DeepSpeed's gradient bucket"] == 2 * PARAMETERS
    alone = sizes(rank(TINY, config(ds=ds, train=TrainConfig(num_ranks=1, batch_size=1))).moments()[0])
    assert alone["gradients of this rank's share"] == 2 * PARAMETERS  # one pass: nothing to add up
    assert "its copy on the way to other ranks" not in alone


def test_layers_that_lean_layers_do_not_know_count_in_full() -> None:
    """InternLM2 has code of its own."""
    kept = {name: shape.kept_per_token(2, True) / shape.kept_per_token(2, False) for name, shape in SIZES.items()}
    assert [name for name, share in kept.items() if share == 1] == ["internlm2-7b"]


def test_on_a_gpu_the_bucket_is_there_in_full() -> None:
    on_gpu = config(cluster=ClusterConfig(device="cuda"))
    assert sizes(rank(TINY, on_gpu).moments()[0])["DeepSpeed's gradient bucket"] == 10**9


def test_adapters_have_optimizer_state_and_the_rest_none() -> None:
    trained = sum(TINY.adapters(LoraConfig(rank=2)))
    of = config(lora=LoraConfig(rank=2), savings=SavingsConfig(reference_once=False))
    found = {term.name: term.size for term in rank(TINY, of).lasting()}
    assert found == {
        "weights": 2 * (PARAMETERS + trained),
        "fp32 master weights": 4 * trained,
        "Adam's moments": 8 * trained,
    }  # and no reference model: it is the policy without adapters


def test_offload_takes_the_optimizer_to_the_nodes_memory() -> None:
    cuda = {"cluster": ClusterConfig(device="cuda"), "train": TrainConfig(num_ranks=2)}
    offloaded = rank(SIZES["1b"], config(ds=DeepspeedConfig(adam_offload=True), **cuda))
    assert [term.name for term in offloaded.lasting() if term.size] == ["weights"]
    share = PUBLISHED["1b"] / 2
    assert [term.size for term in offloaded.in_host_memory()] == [(4 + 8 + 4 + 2) * share]


def test_a_second_model_when_references_are_made_in_every_step() -> None:
    def has_second(**sections: Any) -> bool:
        of = config(savings=SavingsConfig(reference_once=False), **sections)
        return "reference model (savings.reference_once: false)" in [term.name for term in rank(TINY, of).lasting()]

    lora, initial = LoraConfig(rank=4), TrainConfig(reference="initial")
    assert has_second()
    assert not has_second(lora=lora, train=TrainConfig(reference="previous"))  # the policy with its adapters off
    assert has_second(lora=lora, train=initial, run=RunConfig(iterations=2))  # in the second, an older policy
    assert not has_second(lora=lora, train=initial, run=RunConfig(iterations=1))


def test_largest_pass() -> None:
    rollout = RolloutConfig(max_new_tokens=100)
    train = TrainConfig(micro_batch_size=4, max_tokens_per_gpu=1000)
    assert largest_pass(config(rollout=rollout, train=train), 50) == Pass(1000, 800)
    assert largest_pass(config(rollout=rollout, train=train), 2000) == Pass(2200, 800)  # one pair
    ungrouped = SavingsConfig(group_pairs=False)
    assert largest_pass(config(rollout=rollout, train=train, savings=ungrouped), 50) == Pass(1000, 800)
    assert largest_pass(config(rollout=rollout, train=train, savings=ungrouped), 2000) == Pass(2200, 800)
    padded = SavingsConfig(prefix_tree=False, head_at_targets=False)
    assert largest_pass(config(rollout=rollout, train=train, savings=padded), 50) == Pass(1000, 1000)


def test_kv_cache_and_sequences() -> None:
    engine = Engine(SIZES["8b"], "bfloat16", 1, 4096, 256)
    assert engine.kv_per_token() == 128 * 1024
    assert dataclasses.replace(engine, gpus=16).kv_per_token() == 16 * 1024  # a head on every GPU, at least
    rollout = RolloutConfig(num_engines=2, max_in_flight=8, n_samples_per_prompt=4, max_new_tokens=10)
    shared = in_flight(config(rollout=rollout), 100)
    assert (shared.sequences, shared.tokens) == (16, 4 * 100 + 16 * 10)
    alone = in_flight(config(rollout=rollout, vllm=VllmConfig(enable_prefix_caching=False)), 100)
    assert alone.tokens == 16 * 110


shapes = st.builds(
    lambda hidden, inner, layers, kv, group, vocab, is_tied: ModelShape(
        "any", 8 * hidden, inner, layers, kv * group, kv, 8, vocab, is_tied, 64
    ),
    st.integers(1, 64), st.integers(1, 4096), st.integers(1, 40), st.integers(1, 8), st.integers(1, 4),
    st.integers(10, 100_000), st.booleans(),
)  # fmt: skip
configs = st.builds(
    lambda stage, ranks, checkpoints, lora, dtype: Config(
        model=ModelConfig("any", gradient_checkpointing_enable=checkpoints),
        ds=DeepspeedConfig(zero_stage=stage, param_dtype=dtype),
        train=TrainConfig(num_ranks=ranks, batch_size=512),
        lora=LoraConfig(rank=lora),
    ),
    st.sampled_from([2, 3]), st.integers(1, 64), st.booleans(), st.sampled_from([0, 4]),
    st.sampled_from(["bf16", "fp32"]),
)  # fmt: skip


@given(shapes, configs, st.integers(1, 9000), st.integers(1, 100))
def test_grows_with_model_and_tokens(shape: ModelShape, of: Config, tokens: int, more: int) -> None:
    def size(shape: ModelShape, tokens: int, targets: int) -> int:
        """Without what ZeRO-3 holds whole: a tensor that grows beyond its limit is cut."""
        moments = [sizes(moment) for moment in rank(shape, of, tokens, targets).moments()]
        return max(sum(found.values()) - found.get("small weights, held whole", 0) for found in moments)

    now = size(shape, tokens, tokens)
    assert size(shape, tokens + more, tokens) >= now
    assert size(shape, tokens, tokens + more) >= now
    for field in ("num_layers", "hidden_size", "intermediate_size", "vocab_size"):
        bigger = dataclasses.replace(shape, **{field: getattr(shape, field) + more})
        assert size(bigger, tokens, tokens) >= now, field


@given(shapes, configs, st.integers(2, 4))
def test_more_ranks_take_less_each_of_what_is_shared(shape: ModelShape, of: Config, factor: int) -> None:
    more = dataclasses.replace(of, train=dataclasses.replace(of.train, num_ranks=of.train.num_ranks * factor))
    few, many = rank(shape, of).lasting(), rank(shape, more).lasting()
    for before, after in zip(few, many, strict=True):
        if before.name != "small weights, held whole":
            assert after.size <= before.size


@given(shapes, configs)
def test_no_moment_is_left_out_and_none_is_negative(shape: ModelShape, of: Config) -> None:
    of_rank = rank(shape, of)
    assert of_rank.fullest().size == max(moment.size for moment in of_rank.moments())
    assert all(term.size > 0 for moment in of_rank.moments() for term in moment.terms)


def test_an_unknown_size() -> None:
    with pytest.raises(ConfigError, match=r"--model_size: expected one of 135m, .*, got '9b'"):
        model_shape.of_size("9b", "--model_size")
