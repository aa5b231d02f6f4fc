"""The masked DPO loss against OpenRLHF's, TRL's, the closed form, and its own symmetries."""

import importlib.util
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.losses import masked_dpo_loss

NOT_NUMBERS = (math.nan, math.inf, -math.inf)


def batch(num_pairs, length, seed=0, dtype=torch.float64):
    """(policy, reference, weights) of [2B, T]: log-probs of -8 to 0, about a third of the weights 0."""
    random = torch.Generator().manual_seed(seed)
    shape = (2 * num_pairs, length)
    policy = -8 * torch.rand(shape, generator=random, dtype=dtype)
    reference = -8 * torch.rand(shape, generator=random, dtype=dtype)
    weights = (torch.rand(shape, generator=random, dtype=dtype) * 1.5 - 0.5).clamp(min=0)
    return policy, reference, weights


def loss_and_gradient(policy, reference, weights, beta=0.1, **options):
    policy = policy.clone().requires_grad_()
    loss, *_ = masked_dpo_loss(policy, reference, weights, beta, **options)
    loss.sum().backward()
    return loss.detach(), policy.grad


@pytest.fixture(scope="module")
def openrlhf_dpo_loss():
    """OpenRLHF's DPOLoss from its own file: the package's `__init__` asks for flash-attn and deepspeed."""
    package = importlib.util.find_spec("openrlhf")
    file = Path(package.submodule_search_locations[0]) / "models" / "loss.py"
    names = ("openrlhf_apart", "openrlhf_apart.utils")
    stub = types.ModuleType(names[1])
    stub.masked_mean = None  # imported by name there, not used by DPOLoss
    sys.modules.update({names[0]: types.ModuleType(names[0]), names[1]: stub})
    try:
        spec = importlib.util.spec_from_file_location("openrlhf_apart.loss", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name in names:
            del sys.modules[name]
    return module.DPOLoss


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_all_ones_is_openrlhf_dpo_loss(openrlhf_dpo_loss, beta, dtype, tolerance):
    policy, reference, _ = batch(5, 40, dtype=dtype)
    ours, theirs = policy.clone().requires_grad_(), policy.clone().requires_grad_()
    result = masked_dpo_loss(ours, reference, torch.ones_like(policy), beta)
    chosen, rejected = theirs.sum(-1).chunk(2)
    expected = openrlhf_dpo_loss(beta)(chosen, rejected, *reference.sum(-1).chunk(2))
    for value, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)
    result[0].backward()
    expected[0].backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)


def test_all_ones_is_trl_sigmoid_loss(tmp_path):
    """A real DPOTrainer's loss and parameter gradients, policy and reference being two random Llamas."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefghijklm"])}
    spelling = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    spelling.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelling, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy, reference = LlamaForCausalLM(config), LlamaForCausalLM(config)
    pairs = [
        {"prompt": "a b c", "chosen": " d e f g h", "rejected": " d k"},
        {"prompt": "m l", "chosen": " a", "rejected": " b c d e f g h i"},
        {"prompt": "f", "chosen": " g h", "rejected": " g h i"},
    ]
    arguments = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, loss_type="sigmoid", per_device_train_batch_size=len(pairs),
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
    )
    trainer = DPOTrainer(
        policy, ref_model=reference, args=arguments, train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    assert inputs["input_ids"].shape[0] == 2 * len(pairs)
    assert 0 < inputs["completion_mask"].sum() < inputs["attention_mask"].sum() < inputs["input_ids"].numel()
    expected = trainer.compute_loss(trainer.model, inputs)
    expected.backward()
    expected_gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()

    def logps(model):
        # The trainer has replaced its models' forward: the plain one is the class's.
        plain = LlamaForCausalLM(config)
        logits = torch.func.functional_call(
            plain, dict(model.named_parameters()), (inputs["input_ids"], inputs["attention_mask"])
        ).logits
        return logits[:, :-1].log_softmax(-1).gather(-1, inputs["input_ids"][:, 1:, None]).squeeze(-1)

    loss, *_ = masked_dpo_loss(logps(policy), logps(reference), inputs["completion_mask"][:, 1:].float(), 0.3)
    loss.backward()
    assert abs(expected.item() - math.log(2)) > 0.05, "policy and reference must differ for this to say much"
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def closed_form(policy, reference, weights, beta):
    """Eq. 5 and 6 in plain Python: (losses, chosen rewards, rejected rewards, gradient of the sum)."""
    half, length = len(policy) // 2, len(policy[0])
    sums = [
        math.fsum(weights[row][t] * (policy[row][t] - reference[row][t]) for t in range(length))
        for row in range(2 * half)
    ]
    losses, gradient = [], [[0.0] * length for _ in policy]
    for pair in range(half):
        margin = beta * (sums[pair] - sums[half + pair])
        losses.append(math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0))
        for t in range(length):
            # d/dm -log sigmoid(m) = -sigmoid(-m) = -1 / (1 + e^m)
            gradient[pair][t] = -beta * weights[pair][t] / (1 + math.exp(margin))
            gradient[half + pair][t] = beta * weights[half + pair][t] / (1 + math.exp(margin))
    return losses, [beta * s for s in sums[:half]], [beta * s for s in sums[half:]], gradient


@given(st.integers(1, 4), st.integers(1, 12), st.sampled_from([0.01, 0.1, 1.0]), st.integers(0, 1000))
def test_closed_form_with_fractional_weights(num_pairs, length, beta, seed):
    policy, reference, weights = batch(num_pairs, length, seed)
    lists = (tensor.tolist() for tensor in (policy, reference, weights))
    losses, chosen, rejected, gradient = closed_form(*lists, beta)
    policy.requires_grad_()
    loss, chosen_rewards, rejected_rewards = masked_dpo_loss(
        policy, reference, weights, beta, reduction="none"
    )
    loss.sum().backward()
    found = (loss.detach(), chosen_rewards, rejected_rewards, policy.grad)
    for value, wanted in zip(found, (losses, chosen, rejected, gradient), strict=True):
        torch.testing.assert_close(value, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_worked_example():
    """Chosen sums to 2 - 1, rejected to -3 (a third token masked): beta 0.5 gives a margin of 2."""
    policy = torch.tensor([[-1.0, -3.0, -9.0], [-5.0, -7.0, -4.0]])
    reference = torch.tensor([[-3.0, -2.0, -1.0], [-2.0, -1.0, -4.0]])
    weights = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    loss, chosen_rewards, rejected_rewards = masked_dpo_loss(policy, reference, weights, 0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)
    assert chosen_rewards.tolist() == [0.5]
    assert rejected_rewards.tolist() == [-1.5]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(reduction):
    policy, reference, weights = batch(3, 5)
    assert torch.autograd.gradcheck(
        lambda p: masked_dpo_loss(p, reference, weights, 0.3, reduction=reduction)[0], policy.requires_grad_()
    )


@pytest.mark.parametrize("in_policy", NOT_NUMBERS)
@pytest.mark.parametrize("in_reference", [0.0, *NOT_NUMBERS])
def test_what_stands_at_weight_zero_is_never_read(in_policy, in_reference):
    policy, reference, weights = batch(3, 8)
    masked = weights == 0
    assert 0 < masked.sum() < masked.numel()
    clean, clean_gradient = loss_and_gradient(policy, reference, weights)
    dirty, gradient = loss_and_gradient(
        policy.masked_fill(masked, in_policy), reference.masked_fill(masked, in_reference), weights
    )
    assert torch.equal(dirty, clean)
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked] != 0).all()


def test_logits_at_masked_targets_get_no_gradient():
    """Through a log-softmax, as in training: the rows of logits whose target is masked stay untouched."""
    _, reference, weights = batch(2, 6)
    logits = torch.randn(4, 6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    targets = torch.randint(11, (4, 6, 1), generator=torch.Generator().manual_seed(2))
    logps = logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
    masked_dpo_loss(logps, reference, weights, 0.1)[0].backward()
    assert (logits.grad[weights == 0] == 0).all()
    assert (logits.grad[weights > 0].abs().sum(-1) > 0).all()


def test_nothing_kept_is_log_two_without_gradient():
    policy, reference, weights = batch(2, 4)
    loss, gradient = loss_and_gradient(policy, reference, torch.zeros_like(weights))
    assert loss.item() == pytest.approx(math.log(2))
    assert not gradient.any()


@given(st.integers(0, 6), st.integers(0, 6))
def test_padding_changes_nothing(left, right):
    tensors = batch(3, 7)
    loss, gradient = loss_and_gradient(*tensors)
    padded = [
        torch.nn.functional.pad(tensor, (left, right), value=value)
        for tensor, value in zip(tensors, (-5.0, 1.0, 0.0), strict=True)
    ]
    padded_loss, padded_gradient = loss_and_gradient(*padded)
    torch.testing.assert_close(padded_loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(padded_gradient[:, left : left + 7], gradient, rtol=1e-12, atol=1e-15)
    assert not padded_gradient[:, :left].any() and not padded_gradient[:, left + 7 :].any()


@given(st.permutations(range(4)), st.permutations(range(6)))
def test_pairs_and_tokens_in_another_order(pairs, tokens):
    tensors = batch(4, 6)
    rows = [*pairs, *(4 + pair for pair in pairs)]
    losses, gradient = loss_and_gradient(*tensors, reduction="none")
    moved, moved_gradient = loss_and_gradient(*(t[rows][:, tokens] for t in tensors), reduction="none")
    torch.testing.assert_close(moved, losses[list(pairs)], rtol=1e-12, atol=0)
    torch.testing.assert_close(moved_gradient, gradient[rows][:, tokens], rtol=1e-12, atol=1e-15)


def test_chosen_rows_come_first():
    policy, reference, weights = batch(3, 6)
    swapped = [torch.cat(t.chunk(2)[::-1]) for t in (policy, reference, weights)]
    losses, chosen, rejected = masked_dpo_loss(policy, reference, weights, 0.2, reduction="none")
    other, other_chosen, other_rejected = masked_dpo_loss(*swapped, 0.2, reduction="none")
    assert torch.equal(other_chosen, rejected) and torch.equal(other_rejected, chosen)
    # -log sigmoid(m) + log sigmoid(-m) = -m
    torch.testing.assert_close(losses - other, rejected - chosen)


def test_reductions_agree():
    tensors = batch(5, 6)
    losses, *_ = masked_dpo_loss(*tensors, 0.1, reduction="none")
    assert losses.shape == (5,)
    assert torch.equal(masked_dpo_loss(*tensors, 0.1, reduction="sum")[0], losses.sum())
    assert torch.equal(masked_dpo_loss(*tensors, 0.1, reduction="mean")[0], losses.mean())
    assert torch.equal(masked_dpo_loss(*tensors, 0.1)[0], losses.mean())


def test_micro_batches_sum_to_the_whole():
    policy, reference, weights = batch(5, 6)
    whole, gradient = loss_and_gradient(policy, reference, weights, reduction="mean")
    total, collected = 0.0, torch.zeros_like(policy)
    for pairs in ([0, 3], [1, 2, 4]):
        rows = [*pairs, *(5 + pair for pair in pairs)]
        part, part_gradient = loss_and_gradient(policy[rows], reference[rows], weights[rows], reduction="sum")
        total += part / 5
        collected[rows] = part_gradient / 5
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(collected, gradient, rtol=1e-12, atol=1e-15)


def test_rewards_carry_no_gradient():
    policy, reference, weights = batch(2, 4)
    loss, *rewards = masked_dpo_loss(policy.requires_grad_(), reference, weights, 0.1)
    assert loss.requires_grad
    assert not any(reward.requires_grad for reward in rewards)


def test_bfloat16_log_probs_are_summed_in_float32():
    """4096 differences of 2**-8: a bfloat16 running sum would stop growing at 1."""
    policy = torch.zeros(2, 4096, dtype=torch.bfloat16)
    policy[0] = 2**-8
    loss, chosen_rewards, _ = masked_dpo_loss(policy, torch.zeros_like(policy), torch.ones(2, 4096), 1.0)
    assert loss.dtype == torch.float32
    assert chosen_rewards.item() == 16.0


@pytest.mark.parametrize("margin, expected", [(1e4, 0.0), (-1e4, 1e4)])
def test_extreme_margins_stay_finite(margin, expected):
    policy = torch.tensor([[margin], [0.0]])
    loss, gradient = loss_and_gradient(policy, torch.zeros(2, 1), torch.ones(2, 1), 1.0)
    assert loss.item() == expected
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((3, 4), (3, 4), (3, 4)), r"policy_logps: expected \[2B, T\].*got \[3, 4\]"),
        (((0, 4), (0, 4), (0, 4)), r"policy_logps.*got \[0, 4\]"),
        (((4,), (4,), (4,)), r"policy_logps.*got \[4\]"),
        (((4, 2, 2), (4, 2, 2), (4, 2, 2)), r"policy_logps.*got \[4, 2, 2\]"),
        (((4, 3), (4, 2), (4, 3)), r"reference_logps: expected \[4, 3\].*got \[4, 2\]"),
        (((4, 3), (4, 3), (4, 1)), r"weights: expected \[4, 3\].*got \[4, 1\]"),
        (((4, 3), (4, 1), (4, 1)), r"reference_logps: expected \[4, 3\].*got \[4, 1\]"),
    ],
)
def test_wrong_shapes_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        masked_dpo_loss(*(torch.zeros(shape) for shape in shapes), 0.1)


@pytest.mark.parametrize("name", ["policy_logps", "reference_logps", "weights"])
def test_integers_are_refused(name):
    tensors = dict(zip(("policy_logps", "reference_logps", "weights"), batch(1, 2), strict=True))
    with pytest.raises(ValueError, match=f"{name}: expected floats, got torch.int64"):
        masked_dpo_loss(**(tensors | {name: torch.ones(2, 2, dtype=torch.long)}), beta=0.1)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_wrong_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta: expected above 0, got"):
        masked_dpo_loss(*batch(1, 2), beta)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction: expected mean, sum or none, got 'avg'"):
        masked_dpo_loss(*batch(1, 2), 0.1, reduction="avg")
