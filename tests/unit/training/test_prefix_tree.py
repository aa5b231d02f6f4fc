"""The prefix tree computes what one row per sequence computes: log-probs and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import prefix_tree
from maskdpo_ray.training.forward import response_logps, token_logps

VOCABULARY = 12


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config).double().eval()


def one_row_each(model: LlamaForCausalLM, examples: list[TrainingExample]) -> torch.Tensor:
    """[2B, T] log-probs, one sequence at a time, no padding, no sharing, full logits."""
    sides = [(e.prompt_token_ids, e.responses[0].token_ids, e.responses[0].weights) for e in examples]
    sides += [(e.prompt_token_ids, e.responses[1].token_ids, e.responses[1].weights) for e in examples]
    width = max(len(response) for _, response, _ in sides)
    rows = []
    for prompt, response, weights in sides:
        ids = torch.tensor([[*prompt, *response]])
        logps = model(input_ids=ids).logits[0].log_softmax(-1)
        values = [logps[len(prompt) + t - 1, token] * bool(weights[t]) for t, token in enumerate(response)]
        rows.append(torch.stack([*values, *[logps.new_zeros(())] * (width - len(values))]))
    return torch.stack(rows)


tokens = st.integers(0, VOCABULARY - 1)


@st.composite
def micro_batches(draw: st.DrawFn) -> list[TrainingExample]:
    prompts = draw(st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=2))
    examples = []
    for index in range(draw(st.integers(1, 3))):
        sides = []
        for _ in range(2):
            response = draw(st.lists(tokens, min_size=1, max_size=8))
            weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(response), max_size=len(response)))
            weights[draw(st.integers(0, len(response) - 1))] = 1.0
            sides.append((tuple(response), tuple(weights)))
        (chosen, chosen_weights), (rejected, rejected_weights) = sides
        prompt = tuple(draw(st.sampled_from(prompts)))
        examples.append(TrainingExample.of_pair(str(index), prompt, chosen, rejected, chosen_weights, rejected_weights))
    return examples


@settings(max_examples=40, deadline=None)
@given(examples=micro_batches())
def test_equal_to_one_row_per_sequence(model: LlamaForCausalLM, examples: list[TrainingExample]) -> None:
    model.zero_grad()
    logps, weights = response_logps(model, examples)
    expected = one_row_each(model, examples)
    torch.testing.assert_close(logps, expected, rtol=1e-6, atol=1e-6)

    (logps * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (expected * weights).sum().backward()
    for got, parameter in zip(gradients, model.parameters(), strict=True):
        scale = parameter.grad.abs().max() + 1e-12
        # Hugging Face's RMSNorm works in float32 whatever the dtype of the model.
        assert (got - parameter.grad).abs().max() / scale < 1e-5


def test_shares_prefixes_and_leaves_out_what_no_target_needs() -> None:
    tree = prefix_tree.build(
        prompts=[[1, 2, 3], [1, 2, 3]], responses=[[4, 5, 6, 7], [4, 8, 9]], weights=[[1, 1, 0, 0], [0, 1, 0]]
    )
    # Prompt 1 2 3 and the first answer token 4, each once: 5 and 8 are targets only, the rest is cut off.
    assert tree.token_ids.tolist() == [1, 2, 3, 4]
    assert tree.depths.tolist() == [0, 1, 2, 3]
    assert tree.visible.tolist() == np.tril(np.ones((4, 4), dtype=bool)).tolist()
    assert list(zip(tree.rows, tree.columns, tree.nodes, tree.targets, strict=True)) == [
        (0, 0, 2, 4),
        (0, 1, 3, 5),
        (1, 1, 3, 8),
    ]


def test_branches_do_not_see_each_other() -> None:
    tree = prefix_tree.build([[1], [1]], [[2, 3], [4, 5]], [[0, 1], [0, 1]])
    assert tree.token_ids.tolist() == [1, 2, 4]
    assert tree.depths.tolist() == [0, 1, 1]
    assert tree.visible.tolist() == [[True, False, False], [True, True, False], [True, False, True]]


def test_refuses_an_empty_prompt_and_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="prompt of at least one token"):
        prefix_tree.build([[]], [[1]], [[1.0]])
    with pytest.raises(ValueError, match="2 response tokens, 1 weights"):
        prefix_tree.build([[1]], [[1, 2]], [[1.0]])


def test_token_logps_is_log_softmax() -> None:
    logits = torch.randn(1030, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows, targets = torch.tensor([0, 600, 1029, 600]), torch.tensor([6, 0, 3, 2])
    expected = logits.log_softmax(-1)[rows, targets]
    torch.testing.assert_close(token_logps(logits, rows, targets).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradient_of_token_logps(dtype: torch.dtype) -> None:
    """Over more rows than go together; of rows in no order, some with many targets and some with none."""
    generator = torch.Generator().manual_seed(2)
    logits = (3 * torch.randn(330, 11, dtype=torch.float64, generator=generator)).to(dtype)
    rows = torch.cat([torch.randint(330, (500,), generator=generator), torch.tensor([329, 0, 128, 127, 128, 128])])
    targets = torch.cat([torch.randint(11, (500,), generator=generator), torch.tensor([5, 5, 5, 5, 5, 0])])
    direction = torch.randn(506, dtype=torch.float64, generator=generator)
    assert len(rows.unique()) < 330
    wide = logits.double().requires_grad_()
    expected = wide.log_softmax(-1)[rows, targets]
    (wanted,) = torch.autograd.grad(expected, wide, direction)
    narrow = logits.requires_grad_()
    got = token_logps(narrow, rows, targets)
    (gradient,) = torch.autograd.grad(got, narrow, direction.to(got.dtype))
    assert gradient.dtype == dtype and got.dtype == torch.promote_types(dtype, torch.float32)
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=min(close, 1e-5))
    torch.testing.assert_close(gradient.double(), wanted, rtol=close, atol=close)
