"""KL of the reference from the policy at single tokens: values and gradients against autograd, and what is kept."""

from __future__ import annotations

import math

import pytest
import torch

from maskdpo_ray.errors import ModelError
from maskdpo_ray.training.distribution import token_kls
from maskdpo_ray.training.objectives.protocol import Batch, load, sums


def logits(rows: int = 300, vocabulary: int = 11, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """The policy's, the reference's, and more targets than rows, some of which none has."""
    generator = torch.Generator().manual_seed(rows)
    own, reference = 3 * torch.randn(2, rows, vocabulary, generator=generator, dtype=dtype)
    return own.requires_grad_(), reference, torch.randint(rows - 1, (rows + 50,), generator=generator)


def plain(own: torch.Tensor, reference: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The same by autograd, over a copy of all rows."""
    log_p, log_ref = own[rows].log_softmax(-1), reference[rows].log_softmax(-1)
    return torch.nn.functional.kl_div(log_p, log_ref, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("num_rows", [2, 128, 300])
def test_values_and_gradients_are_those_of_autograd(num_rows: int) -> None:
    own, reference, rows = logits(num_rows)
    weights = torch.rand(len(rows), dtype=torch.float64)
    found, expected = token_kls(own, reference, rows), plain(own, reference, rows)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    gradients = [torch.autograd.grad((values * weights).sum(), own)[0] for values in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=0)
    assert not gradients[0][num_rows - 1].any() and gradients[0].any()


def test_gradients_are_those_of_finite_differences() -> None:
    own, reference, _ = logits(4, 5)
    rows = torch.tensor([0, 2, 2, 3])
    assert torch.autograd.gradcheck(lambda x: token_kls(x, reference, rows), own)


def test_known_value() -> None:
    """KL of a fair coin from one that falls on one side three times of four."""
    own, reference = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert token_kls(own, reference, torch.tensor([0])).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert token_kls(reference, own, torch.tensor([0])).item() == pytest.approx(
        0.75 * math.log(1.5) - 0.25 * math.log(2)
    )


def test_the_same_logits_are_at_no_distance() -> None:
    own, _, rows = logits()
    assert not token_kls(own, own.detach().clone(), rows).any()


def test_what_the_reference_excludes_counts_nothing() -> None:
    own, reference, rows = logits()
    reference[:, 3:6] = -math.inf
    kls = token_kls(own, reference, rows)
    kls.sum().backward()
    assert torch.isfinite(kls).all() and (kls > 0).all() and torch.isfinite(own.grad).all()
    log_p = own.log_softmax(-1)[:, [0, 1, 2, *range(6, 11)]]
    log_ref = reference[:, [0, 1, 2, *range(6, 11)]].log_softmax(-1)
    torch.testing.assert_close(kls, (log_ref.exp() * (log_ref - log_p)).sum(-1)[rows])


def test_half_precision_logits_are_computed_in_float32() -> None:
    own, reference, rows = logits(dtype=torch.float32)
    half, other = own.detach().bfloat16().requires_grad_(), reference.bfloat16()
    found = token_kls(half, other, rows)
    expected = plain(half.double(), other.double(), rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert half.grad.dtype == torch.bfloat16


def test_nothing_of_the_size_of_the_logits_is_kept_beside_them() -> None:
    own, reference, rows = logits(vocabulary=1000)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        token_kls(own, reference, rows)
    pointers = {own.data_ptr(), reference.data_ptr()}
    assert sum(x.numel() for x in kept if x.data_ptr() not in pointers) <= 2 * len(rows)


def test_no_target_has_no_divergence() -> None:
    own, reference, rows = logits()
    kls = token_kls(own, reference, rows[:0])
    kls.sum().backward()
    assert kls.shape == (0,) and not own.grad.any()


def test_other_vocabularies_are_refused() -> None:
    own, reference, rows = logits()
    with pytest.raises(
        ModelError, match=r"expected the policy's positions and vocabulary, \[300, 11\], got \[300, 9\]"
    ):
        token_kls(own, reference[:, :9], rows)


def test_tdpo_by_the_whole_distribution() -> None:
    """Loss and gradient by the logits of two pairs, against TDPO2 written out over whole sequences."""
    own, reference, _ = logits(12, 5)
    targets = torch.arange(12) % 5
    rows = torch.arange(12).view(4, 3)
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.5], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    log_p, log_ref = own.log_softmax(-1), reference.log_softmax(-1)
    policy, given = (each[torch.arange(12), targets].view(4, 3) for each in (log_p, log_ref))
    tdpo = load("tdpo", {"alpha": 0.7})
    responses = sums(policy, given, weights, token_kls(own, reference, rows.flatten()).view(4, 3))
    found = tdpo.losses(Batch(responses[:2], responses[2:]), 0.3).sum()
    sequential = ((log_ref.exp() * (log_ref - log_p)).sum(-1).view(4, 3) * weights).sum(-1)
    ratios = ((policy - given) * weights).sum(-1)
    delta = 0.3 * sequential[2:] - (0.3 * sequential[:2]).detach()
    expected = -torch.sigmoid(0.3 * (ratios[:2] - ratios[2:]) - 0.7 * delta).log().sum()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    gradients = [torch.autograd.grad(loss, own, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=0)
