"""Each saving of a training step alone, all and none: the same loss and gradients (Mask-DPO eq. 6)."""

from __future__ import annotations

import copy
import random
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from maskdpo_ray.config.schema import SavingsConfig, TrainConfig
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import batches, lean_layers, prefix_tree, tree_attention
from maskdpo_ray.training.forward import response_logps
from maskdpo_ray.training.objectives.dpo import masked_dpo_loss

NAMES = [field.name for field in fields(SavingsConfig)]
NONE = SavingsConfig(**dict.fromkeys(NAMES, False))
CASES = {
    "all": SavingsConfig(),
    **{f"only {name}": replace(NONE, **{name: True}) for name in NAMES},
    **{f"all but {name}": replace(SavingsConfig(), **{name: False}) for name in NAMES},
}
VOCABULARY, BETA = 300, 0.5


def build(kind: type = LlamaConfig) -> Any:
    torch.manual_seed(0)
    config = kind(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=8,
        max_position_embeddings=256,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def examples(seed: int = 0, count: int = 7) -> list[TrainingExample]:
    """Pairs of three prompts that begin alike; answers that begin alike, with tails without weight."""
    rng = random.Random(seed)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(size))

    few_shots, result = ids(20), []
    prompts = [few_shots + ids(3) for _ in range(3)]
    for index in range(count):
        beginning = ids(rng.randrange(6))
        chosen, rejected = (beginning + ids(rng.randrange(2, 20)) for _ in range(2))
        weights = [
            [rng.choice((0.0, 0.0, 0.5, 1.0)) for _ in side[: len(side) * 2 // 3]] for side in (chosen, rejected)
        ]
        for row, side in zip(weights, (chosen, rejected), strict=True):
            row += [0.0] * (len(side) - len(row))
            row[rng.randrange(2)] = 1.0
        result.append(
            TrainingExample.of_pair(
                f"q{index}", prompts[index % 3], chosen, rejected, tuple(weights[0]), tuple(weights[1])
            )
        )
    return result


def losses(
    model: Any, pairs: list[TrainingExample], savings: SavingsConfig, train: TrainConfig, reference: Any
) -> tuple[float, list[torch.Tensor]]:
    """(loss, gradients) of a step over `pairs`, in micro-batches as a rank makes them."""
    model.zero_grad()
    total = 0.0
    for places in batches.micro_batches(pairs, 0, 1, train, savings):
        batch = [pairs[place] for place in places]
        logps, weights = response_logps(model, batch, savings=savings)
        with torch.no_grad():
            against, _ = response_logps(reference, batch, savings=savings)
        loss, _, _ = masked_dpo_loss(logps, against, weights, BETA, reduction="sum")
        (loss / len(pairs)).backward()
        total += loss.item() / len(pairs)
    return total, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.fixture(scope="module", params=[LlamaConfig, Qwen3Config], ids=["llama", "qwen3"])
def truth(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A model, its reference, and loss and gradients in float64 without any saving and with transformers' attention."""
    policy, reference = build(request.param), build(request.param)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    double = [copy.deepcopy(model).double() for model in (policy, reference)]
    train = TrainConfig(micro_batch_size=3)
    loss, gradients = losses(double[0], examples(), NONE, train, double[1])
    return {"models": (policy, reference), "loss": loss, "gradients": gradients}


def relative_error(gradients: list[Any], expected: list[Any]) -> float:
    """Error of all gradients together: the error's norm over theirs."""
    errors = torch.stack([(one.double() - other).norm() for one, other in zip(gradients, expected, strict=True)])
    return (errors.norm() / torch.stack([gradient.norm() for gradient in expected]).norm()).item()


@pytest.mark.parametrize("attention", ["own", "transformers'"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_loss_and_gradients(truth: dict[str, Any], case: str, attention: str) -> None:
    savings = CASES[case]
    policy, reference = (copy.deepcopy(model) for model in truth["models"])
    if attention == "own" and savings.prefix_tree:
        assert tree_attention.install(policy) == tree_attention.install(reference) == tree_attention.GROUPED
    if savings.lean_layers:
        assert lean_layers.install(policy) == lean_layers.install(reference) > 6
    loss, gradients = losses(policy, examples(), savings, TrainConfig(micro_batch_size=3), reference)
    assert loss == pytest.approx(truth["loss"], rel=1e-6)
    assert relative_error(gradients, truth["gradients"]) < 1e-6


@pytest.mark.parametrize("attention", ["own", "transformers'"])
def test_with_gradient_checkpointing(truth: dict[str, Any], attention: str) -> None:
    policy, reference = (copy.deepcopy(model) for model in truth["models"])
    if attention == "own":
        tree_attention.install(policy)
    lean_layers.install(policy)
    lean_layers.recompute(policy)
    loss, gradients = losses(policy, examples(), SavingsConfig(), TrainConfig(micro_batch_size=3), reference)
    assert loss == pytest.approx(truth["loss"], rel=1e-6)
    assert relative_error(gradients, truth["gradients"]) < 1e-6
    for got, expected in zip(gradients, truth["gradients"], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


def test_a_step_computes_fewer_tokens() -> None:
    """Purpose of the savings: each alone computes fewer tokens, or the head at fewer, than none does."""
    pairs, computed = examples(), {}
    model = build()

    def count(module: Any, arguments: tuple, keywords: dict[str, Any]) -> None:
        computed["tokens"] += keywords["input_ids"].numel()
        keep = keywords.get("logits_to_keep")
        computed["logits"] += keywords["input_ids"].numel() if keep is None else len(keep) * len(keywords["input_ids"])

    model.register_forward_pre_hook(count, with_kwargs=True)
    counts = {}
    for name, savings in {"none": NONE, **CASES}.items():
        computed |= {"tokens": 0, "logits": 0}
        for places in batches.micro_batches(pairs, 0, 1, TrainConfig(micro_batch_size=3), savings):
            response_logps(model, [pairs[place] for place in places], savings=savings)
        counts[name] = dict(computed)
    assert counts["all"]["tokens"] < counts["only prefix_tree"]["tokens"] < counts["none"]["tokens"] / 1.5
    assert counts["only cut_tails"]["tokens"] < counts["none"]["tokens"]
    assert counts["only head_at_targets"]["logits"] < counts["none"]["logits"] / 1.5
    assert counts["all"]["tokens"] < counts["all but group_pairs"]["tokens"]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 12),
    num_ranks=st.integers(1, 4),
    pairs=st.integers(1, 5),
    tokens=st.integers(1, 200),
    case=st.sampled_from(sorted(CASES)),
)
def test_micro_batches(seed: int, count: int, num_ranks: int, pairs: int, tokens: int, case: str) -> None:
    """Every pair once, ranks alike, and limits kept."""
    batch, savings = examples(seed, count), CASES[case]
    train = TrainConfig(micro_batch_size=pairs, max_tokens_per_gpu=tokens)
    shares = [batches.micro_batches(batch, rank, num_ranks, train, savings) for rank in range(num_ranks)]
    assert sorted(place for share in shares for places in share for place in places) == list(range(count))
    sizes = [sum(map(len, share)) for share in shares]
    assert len(sizes) == num_ranks and max(sizes) - min(sizes) <= 1
    assert all(0 < len(places) <= pairs for share in shares for places in share)
    for places in (places for share in shares for places in share):
        chosen = [batch[place] for place in places]
        if savings.prefix_tree:
            tree = prefix_tree.build(
                [e.prompt_token_ids for e in chosen] * 2,
                [e.responses[0].token_ids for e in chosen] + [e.responses[1].token_ids for e in chosen],
                [e.responses[0].weights for e in chosen] + [e.responses[1].weights for e in chosen],
                cut_tails=savings.cut_tails,
            )
            size = len(tree.token_ids)
        else:
            size = 2 * len(places) * max(max(e.input_lengths(savings.cut_tails)) for e in chosen)
        assert size <= tokens or len(places) == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), value_size=st.sampled_from((4, 8, 20)))
def test_attention_over_a_tree(seed: int, count: int, value_size: int) -> None:
    """Grouped attention, and the two numbers a node that FlexAttention masks by, against SDPA with the whole mask."""
    pairs = examples(seed, count)
    tree = prefix_tree.build(
        [e.prompt_token_ids for e in pairs] * 2,
        [e.responses[0].token_ids for e in pairs] + [e.responses[1].token_ids for e in pairs],
        [e.responses[0].weights for e in pairs] + [e.responses[1].weights for e in pairs],
        list(range(count)) * 2,
    )
    size = len(tree.token_ids)
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(1, *shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((6, size, 8), (3, size, 8), (3, size, value_size))
    )
    visible = torch.from_numpy(tree.visible)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, visible[None, None], enable_gqa=True
    ).transpose(1, 2)
    got, _ = tree_attention.attention(
        torch.nn.Module(), query, key, value, None, tree=tree_attention.layout(tree, "cpu")
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn(got.shape, dtype=torch.float64, generator=generator)
    for one, other in zip(
        torch.autograd.grad((got * direction).sum(), (query, key, value)),
        torch.autograd.grad((expected * direction).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    mask = tree_attention.flex_mask(tree, "cpu").mask_mod
    places = torch.arange(size)
    assert torch.equal(mask(0, 0, places[:, None], places[None, :]), visible)
