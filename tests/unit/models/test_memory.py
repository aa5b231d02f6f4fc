"""Memory from shapes: sums written out by hand, peaks of real ranks, and what must grow with what."""

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
    ObjectiveConfig,
    RolloutConfig,
    RunConfig,
    SavingsConfig,
    TrainConfig,
    VllmConfig,
)
from maskdpo_ray.models import memory
from maskdpo_ray.models.memory import EngineMemory, Pass, RankMemory, in_flight, largest_pass
from maskdpo_ray.models.shape import ModelShape, of_size

REFERENCE = "reference model in every step"


def made(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, is_tied: bool) -> ModelShape:
    """A Llama by hand: q, k, v, o, gate, up, down and two norms a layer."""
    key = hidden // heads * kv_heads
    sizes = {
        "q_proj": (hidden, hidden), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
    }  # fmt: skip
    layer = [*(inputs * outputs for inputs, outputs in sizes.values()), hidden, hidden]
    linears = {f"model.layers.{n}.{name}": size for n in range(layers) for name, size in sizes.items()}
    head = [] if is_tied else [vocab * hidden]

    def kept(width: int, is_lean: bool) -> int:
        return layers * width * ((4 if is_lean else 8) * hidden + 2 * (hidden + key) + (2 if is_lean else 4) * inner)

    return ModelShape(
        "made", (vocab * hidden, *layer * layers, hidden, *head), {**linears, "lm_head": (hidden, vocab)}, "lm_head",
        hidden, layers, heads, vocab, 64, ((kv_heads, 2 * hidden // heads),) * layers, kept,
    )  # fmt: skip


TINY = made(8, 16, 2, 4, 2, 32, is_tied=True)
PARAMETERS = 32 * 8 + 2 * (64 + 32 + 32 + 64 + 3 * 128 + 8 + 8) + 8


def config(**sections: Any) -> Config:
    return Config(model=ModelConfig("model"), **sections)


def rank(shape: ModelShape, of: Config, tokens: int = 10, targets: int = 5) -> RankMemory:
    return RankMemory(shape, of, Pass(tokens, targets))


def nonzero(terms: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in terms.items() if size}


def test_parameters_by_hand() -> None:
    assert TINY.parameters == PARAMETERS


@pytest.mark.parametrize(("stage", "dtype", "width"), [(2, "bf16", 2), (3, "bf16", 2), (2, "fp32", 4)])
def test_what_lasts_by_hand(stage: int, dtype: str, width: int) -> None:
    ds, train = DeepspeedConfig(zero_stage=stage, param_dtype=dtype), TrainConfig(num_ranks=4)
    share = PARAMETERS / 4
    expected = {"fp32 master weights": 4 * share, "Adam's moments": 8 * share}
    if stage == 2:
        expected["weights"] = width * PARAMETERS
    else:  # smaller than 100,000 elements, so held whole as well
        expected |= {"weights": width * (share + PARAMETERS), "fp32 gradients": 4 * share}
    assert nonzero(rank(TINY, config(ds=ds, train=train)).lasting()) == expected


def test_gradients_by_hand() -> None:
    """A rank keeps gradients of whole tensors: of two ranks the first holds the embedding and most of layer one."""
    ds = DeepspeedConfig(zero_stage=2)
    train = TrainConfig(num_ranks=2, batch_size=64)
    backward = rank(TINY, config(ds=ds, train=train)).moments()["backward pass"]
    half, held, start = PARAMETERS / 2, [0, 0], 0
    for size in TINY.weights:
        held[0] += size * (start < half)
        held[1] += size * (start + size > half)
        start += size
    assert backward["gradients of this rank's share"] == 2 * 2 * max(held)
    assert backward["DeepSpeed's gradient buckets"] == 2 * (2 * PARAMETERS + 256)  # two, and the largest gradient
    alone = rank(TINY, config(ds=ds, train=TrainConfig(num_ranks=1, batch_size=1))).moments()["backward pass"]
    assert alone["gradients of this rank's share"] == 2 * PARAMETERS  # one pass: nothing to add up
    assert alone["DeepSpeed's gradient buckets"] == 2 * (PARAMETERS + 256)  # none on the way to other ranks


def test_activations_and_logits_by_hand() -> None:
    def of(is_checkpointed: bool, tokens: int, targets: int) -> list[int]:
        model = ModelConfig("model", gradient_checkpointing_enable=is_checkpointed)
        backward = rank(TINY, Config(model=model), tokens, targets).moments()["backward pass"]
        return list(backward.values())[-2:]

    layer = 10 * TINY.kept_per_token(2, True) // 2
    assert of(False, 10, 5) == [2 * layer, layer]
    assert of(False, 10, 1000) == [2 * layer, 2 * 2 * 1000 * 32]  # logits and their gradients
    assert of(True, 10, 5) == [2 * 10 * 8 * 2, 2 * layer]


def test_rows_have_masks_and_shared_prompts_have_none() -> None:
    """transformers' attention makes a mask of floats for each layer, of every row's tokens by the longest row's."""
    rollout, train = RolloutConfig(max_new_tokens=100), TrainConfig(micro_batch_size=4, max_tokens_per_gpu=1000)
    rows = config(rollout=rollout, train=train, savings=SavingsConfig(prefix_tree=False))
    largest = largest_pass(rows, 50)
    assert largest == Pass(1000, 800, 1000 * 150)
    with_masks = RankMemory(TINY, rows, largest).moments()["backward pass"]["activations"]
    assert with_masks == 1000 * TINY.kept_per_token(2, True) + 2 * 2 * 1000 * 150


def test_on_a_gpu_the_bucket_is_there_in_full() -> None:
    backward = rank(TINY, config(cluster=ClusterConfig(device="cuda"))).moments()["backward pass"]
    assert backward["DeepSpeed's gradient buckets"] == 10**9 + 2 * 256


def test_adapters_have_optimizer_state_and_the_rest_none() -> None:
    trained = sum(TINY.adapters(LoraConfig(rank=2)))
    assert trained == 2 * 2 * (2 * (8 + 8) + 2 * (8 + 4) + 3 * (8 + 16))
    of = config(lora=LoraConfig(rank=2), savings=SavingsConfig(reference_once=False))
    assert nonzero(rank(TINY, of).lasting()) == {
        "weights": 2 * (PARAMETERS + trained),
        "fp32 master weights": 4 * trained,
        "Adam's moments": 8 * trained,
    }  # and no reference model: it is the policy without adapters


def test_offload_takes_the_optimizer_to_the_nodes_memory() -> None:
    cuda = {"cluster": ClusterConfig(device="cuda"), "train": TrainConfig(num_ranks=2)}
    shape = of_size("1b", "--model_size")
    offloaded = rank(shape, config(ds=DeepspeedConfig(adam_offload=True), **cuda))
    assert nonzero(offloaded.lasting()) == {"weights": 2 * shape.parameters}
    assert offloaded.on_host() == (4 + 8 + 4 + 2) * shape.parameters / 2
    assert offloaded.copied() == 2 * shape.parameters
    assert rank(shape, config(**cuda)).on_host() == 0


def test_a_second_model_when_references_are_made_in_every_step() -> None:
    def has_second(**sections: Any) -> bool:
        of = config(savings=SavingsConfig(reference_once=False), **sections)
        return REFERENCE in nonzero(rank(TINY, of).lasting())

    lora, initial = LoraConfig(rank=4), TrainConfig(reference="initial")
    assert has_second()
    assert not has_second(lora=lora, train=TrainConfig(reference="previous"))  # the policy with its adapters off
    assert has_second(lora=lora, train=initial, run=RunConfig(iterations=2))  # in the second, an older policy
    assert not has_second(lora=lora, train=initial, run=RunConfig(iterations=1))
    assert not has_second(objective=ObjectiveConfig("simpo"))  # without a reference
    tdpo = config(objective=ObjectiveConfig("tdpo"))  # whatever the savings: it reads the reference's distribution
    assert REFERENCE in nonzero(rank(TINY, tdpo).lasting())


def test_largest_pass() -> None:
    rollout = RolloutConfig(max_new_tokens=100)
    train = TrainConfig(micro_batch_size=4, max_tokens_per_gpu=1000)
    assert largest_pass(config(rollout=rollout, train=train), 50) == Pass(1000, 800)
    assert largest_pass(config(rollout=rollout, train=train), 2000) == Pass(2200, 800)  # one pair
    ungrouped = SavingsConfig(group_pairs=False)
    assert largest_pass(config(rollout=rollout, train=train, savings=ungrouped), 50) == Pass(1000, 800)
    assert largest_pass(config(rollout=rollout, train=train, savings=ungrouped), 2000) == Pass(2200, 800)
    padded = SavingsConfig(prefix_tree=False, head_at_targets=False)
    assert largest_pass(config(rollout=rollout, train=train, savings=padded), 50) == Pass(1000, 1000, 150_000)


def test_kv_cache_and_sequences() -> None:
    engine = EngineMemory(of_size("8b", "--model_size"), "bfloat16", 1, 4096, 256)
    assert engine.kv_per_token() == 128 * 1024
    assert dataclasses.replace(engine, gpus=16).kv_per_token() == 16 * 1024  # at least one head on every GPU
    rollout = RolloutConfig(num_engines=2, max_in_flight=8, n_samples_per_prompt=4, max_new_tokens=10)
    assert in_flight(config(rollout=rollout), 100) == (16, 4 * 100 + 16 * 10)
    alone = in_flight(config(rollout=rollout, vllm=VllmConfig(enable_prefix_caching=False)), 100)
    assert alone == (16, 16 * 110)


MEASURED = {(2, "bf16", False, 4): (Pass(1240, 764), 4190), (3, "bf16", True, 4): (Pass(1240, 764), 3649)}
"""(ZeRO stage, dtype, checkpointing, pairs a pass) -> (pass, peak of the rank's process in MiB), of SmolLM2-135M:
benchmarks/rank_memory.py --model models/smollm2-135m-instruct with these options."""


@pytest.mark.parametrize("options", MEASURED, ids=str)
def test_peaks_of_real_ranks_are_within_the_stated_error(options: tuple[int, str, bool, int]) -> None:
    (stage, dtype, is_checkpointed, pairs), (largest, peak) = options, MEASURED[options]
    of = Config(
        model=ModelConfig("model", gradient_checkpointing_enable=is_checkpointed),
        ds=DeepspeedConfig(zero_stage=stage, param_dtype=dtype),
        train=TrainConfig(batch_size=2 * pairs),
    )
    _, terms = RankMemory(of_size("135m", "--model_size"), of, largest).on_cpu()
    assert sum(terms.values()) / 2**20 == pytest.approx(peak, rel=memory.ERROR)


shapes = st.builds(
    lambda hidden, inner, layers, kv, group, vocab, is_tied: made(
        8 * kv * group * hidden, inner, layers, kv * group, kv, vocab, is_tied
    ),
    st.integers(1, 8), st.integers(1, 4096), st.integers(1, 40), st.integers(1, 8), st.integers(1, 4),
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


def size(shape: ModelShape, of: Config, tokens: int, targets: int) -> int:
    found = rank(shape, of, tokens, targets)
    return sum(found.lasting().values()) + sum(found.fullest()[1].values())


@given(shapes, configs, st.integers(1, 9000), st.integers(1, 100))
def test_grows_with_tokens(shape: ModelShape, of: Config, tokens: int, more: int) -> None:
    now = size(shape, of, tokens, tokens)
    assert size(shape, of, tokens + more, tokens) >= now
    assert size(shape, of, tokens, tokens + more) >= now


@given(st.integers(1, 16), st.integers(1, 512), st.integers(1, 20), st.integers(10, 4000), st.booleans(), configs)
def test_grows_with_the_model(hidden: int, inner: int, layers: int, vocab: int, is_tied: bool, of: Config) -> None:
    """Growth but for tensors that ZeRO-3 holds whole: one that outgrows its limit is cut."""
    now = size(made(8 * hidden, inner, layers, 4, 2, vocab, is_tied), of, 100, 100)
    assert 8 * 17 * 512 < 100_000
    for larger in ((8 * hidden + 8, inner, layers), (8 * hidden, inner + 1, layers), (8 * hidden, inner, layers + 1)):
        if vocab * larger[0] < 100_000 or of.ds.zero_stage == 2:
            assert size(made(*larger, 4, 2, vocab, is_tied), of, 100, 100) >= now


@given(shapes, configs, st.integers(2, 4))
def test_more_ranks_take_less_each_of_what_is_shared(shape: ModelShape, of: Config, factor: int) -> None:
    more = dataclasses.replace(of, train=dataclasses.replace(of.train, num_ranks=of.train.num_ranks * factor))
    few, many = rank(shape, of).lasting(), rank(shape, more).lasting()
    for name, before in few.items():
        if name != "weights":  # ZeRO-3 holds small ones whole as well, where there are several ranks
            assert many[name] <= before


@given(shapes, configs)
def test_no_moment_is_left_out_and_none_is_negative(shape: ModelShape, of: Config) -> None:
    of_rank = rank(shape, of)
    moments = of_rank.moments().values()
    assert sum(of_rank.fullest()[1].values()) == max(sum(moment.values()) for moment in moments)
    assert all(term >= 0 for moment in moments for term in moment.values())
