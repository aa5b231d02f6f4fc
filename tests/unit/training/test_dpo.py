"""The masked DPO loss: closed form, gradients, and the two libraries' plain DPO."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import trl_losses
from hypothesis import given
from hypothesis import strategies as st
from objective_batches import Slopes, Sums, agrees, sigmoid

from maskdpo_ray.training.objectives.dpo import masked_dpo_loss
from maskdpo_ray.training.objectives.protocol import load

BETA = 0.1


def batch(
    num_pairs: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Policy log-probs, reference log-probs, fractional weights of which about a third are 0."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = (-5 * torch.rand(2, 2 * num_pairs, length, generator=generator, dtype=dtype)).unbind()
    weights = torch.rand(2 * num_pairs, length, generator=generator, dtype=dtype)
    return policy, reference, torch.where(weights < 0.35, 0.0, weights)


def closed_form(policy: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor, beta: float) -> list[float]:
    """Eq. 5 and 6 in plain Python, a pair at a time."""
    num_pairs = len(policy) // 2

    def masked_sum(row: int) -> float:
        columns = zip(policy[row].tolist(), reference[row].tolist(), weights[row].tolist(), strict=True)
        return math.fsum(w * (p - r) for p, r, w in columns if w)

    margins = [beta * (masked_sum(i) - masked_sum(i + num_pairs)) for i in range(num_pairs)]
    return [math.log1p(math.exp(-margin)) for margin in margins]


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**20), st.floats(0.01, 2.0))
def test_closed_form_with_fractional_weights(num_pairs: int, length: int, seed: int, beta: float) -> None:
    policy, reference, weights = batch(num_pairs, length, seed)
    expected = closed_form(policy, reference, weights, beta)
    loss, chosen, rejected = masked_dpo_loss(policy, reference, weights, beta, reduction="none")
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)
    mean = masked_dpo_loss(policy, reference, weights, beta)[0]
    assert mean.item() == pytest.approx(sum(expected) / num_pairs)
    total = masked_dpo_loss(policy, reference, weights, beta, reduction="sum")[0]
    assert total.item() == pytest.approx(sum(expected))
    rewards = beta * (weights * (policy - reference)).sum(-1)
    torch.testing.assert_close(torch.cat([chosen, rejected]), rewards)


def test_known_value() -> None:
    """M_w = 0.5 * 2 = 1 and M_l = 1 * -3, so the loss is log(1 + e^-0.4)."""
    policy = torch.tensor([[-1.0, -9.0], [-7.0, -4.0]])
    reference = torch.tensor([[-3.0, -1.0], [-1.0, -1.0]])
    weights = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    loss, chosen, rejected = masked_dpo_loss(policy, reference, weights, BETA)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.4)))
    assert chosen.tolist() == pytest.approx([0.1]) and rejected.tolist() == pytest.approx([-0.3])


def test_gradients_are_those_of_finite_differences() -> None:
    policy, reference, weights = batch(3, 4)
    assert torch.autograd.gradcheck(
        lambda p: masked_dpo_loss(p, reference, weights, BETA)[0], policy.requires_grad_(), eps=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_what_stands_at_weight_zero_is_not_read_and_gets_no_gradient(junk: float) -> None:
    policy, reference, weights = batch(3, 5)
    expected = masked_dpo_loss(policy, reference, weights, BETA)[0]
    for name in ("policy", "reference"):
        dirty = {"policy": policy.clone(), "reference": reference.clone()}
        dirty[name][weights == 0] = junk
        leaf = dirty["policy"].requires_grad_()
        loss, chosen, rejected = masked_dpo_loss(leaf, dirty["reference"], weights, BETA)
        loss.backward()
        assert torch.equal(loss, expected) and not chosen.requires_grad and not rejected.requires_grad
        assert torch.equal(leaf.grad == 0, weights == 0)
        assert torch.isfinite(leaf.grad).all()


def test_gradient_signs_raise_the_chosen_and_lower_the_rejected() -> None:
    policy, reference, weights = batch(3, 5)
    policy.requires_grad_()
    masked_dpo_loss(policy, reference, weights, BETA)[0].backward()
    chosen, rejected = policy.grad.chunk(2)
    assert (chosen <= 0).all() and (rejected >= 0).all() and (chosen < 0).any() and (rejected > 0).any()


def test_padding_and_order_of_pairs_change_nothing() -> None:
    policy, reference, weights = batch(4, 6)
    expected = masked_dpo_loss(policy, reference, weights, BETA, reduction="none")
    fills = ((policy, -1e9), (reference, 7), (weights, 0))
    padded = [torch.nn.functional.pad(tensor, (2, 3), value=fill) for tensor, fill in fills]
    for got, want in zip(masked_dpo_loss(*padded, BETA, reduction="none"), expected, strict=True):
        torch.testing.assert_close(got, want)
    order = torch.tensor([2, 0, 3, 1])
    rows = torch.cat([order, order + 4])
    permuted = masked_dpo_loss(policy[rows], reference[rows], weights[rows], BETA, reduction="none")
    for got, want in zip(permuted, expected, strict=True):
        torch.testing.assert_close(got, want[order])


def test_uneven_micro_batches_add_up_to_the_global_mean() -> None:
    policy, reference, weights = batch(5, 6)
    policy.requires_grad_()
    (whole,) = torch.autograd.grad(masked_dpo_loss(policy, reference, weights, BETA)[0], policy)
    parts = torch.zeros_like(whole)
    for pairs in ([0, 1, 2], [3], [4]):
        rows = torch.tensor([*pairs, *(i + 5 for i in pairs)])
        loss = masked_dpo_loss(policy[rows], reference[rows], weights[rows], BETA, reduction="sum")[0] / 5
        parts += torch.autograd.grad(loss, policy)[0]
    torch.testing.assert_close(parts, whole)


def test_half_precision_log_probs_are_summed_in_float32() -> None:
    policy = torch.full((2, 1000), -0.1, dtype=torch.bfloat16)
    loss, chosen, _ = masked_dpo_loss(policy, torch.zeros_like(policy), torch.ones_like(policy), 1.0)
    assert loss.dtype == torch.float32
    assert chosen.item() == pytest.approx(1000 * policy[0, 0].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((3, 4), (3, 4), (3, 4)), {}, "2B"),
        (((0, 4), (0, 4), (0, 4)), {}, "2B"),
        (((4,), (4,), (4,)), {}, "2B"),
        (((2, 4), (2, 3), (2, 4)), {}, "reference_logps"),
        (((2, 4), (2, 4), (2, 1)), {}, "weights"),
        (((2, 4), (2, 4), (2, 4)), {"beta": 0.0}, "beta"),
        (((2, 4), (2, 4), (2, 4)), {"reduction": "max"}, "reduction"),
    ],
)
def test_wrong_arguments_are_refused(
    shapes: tuple[tuple[int, ...], ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        masked_dpo_loss(*(torch.zeros(shape) for shape in shapes), **{"beta": BETA} | options)


def test_integer_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights: expected floats"):
        masked_dpo_loss(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.long), BETA)


@pytest.fixture(scope="module")
def openrlhf_loss() -> ModuleType:
    """openrlhf/models/loss.py by its path: the package imports flash_attn, which has no CPU build."""
    package = importlib.util.find_spec("openrlhf")
    assert package is not None and package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "models"
    stub = ModuleType("openrlhf_models_stub")
    stub.__path__ = []  # makes it a package, for the relative import of `masked_mean`, unused by DPOLoss
    utils = ModuleType("openrlhf_models_stub.utils")
    utils.masked_mean = None
    modules = {stub.__name__: stub, utils.__name__: utils}
    spec = importlib.util.spec_from_file_location("openrlhf_models_stub.loss", folder / "loss.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.update(modules)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in modules:
            del sys.modules[name]
    return module


def padded_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Plain DPO's batch: weight 1 on every response token, 0 on padding, where log-probs are 0."""
    policy, reference, _ = batch(4, 9, seed, torch.float32)
    lengths = torch.tensor([9, 1, 4, 7, 2, 9, 5, 3])
    ones = (torch.arange(9) < lengths[:, None]).float()
    return policy * ones, reference * ones, ones


@pytest.mark.parametrize("seed", range(3))
def test_all_ones_is_openrlhf_dpo(openrlhf_loss: ModuleType, seed: int) -> None:
    policy, reference, ones = padded_batch(seed)
    policy.requires_grad_()
    sums = [*policy.sum(-1).chunk(2), *reference.sum(-1).chunk(2)]
    theirs = openrlhf_loss.DPOLoss(beta=BETA)(*sums)
    ours = masked_dpo_loss(policy, reference, ones, BETA)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    mine, other = (torch.autograd.grad(loss[0], policy, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine * ones, other * ones)


@pytest.mark.parametrize("seed", range(3))
def test_all_ones_is_trl_sigmoid_loss(seed: int) -> None:
    """TRL's own `_compute_loss`, on a model and a reference that return given log-probs."""
    from trl import DPOConfig, DPOTrainer

    policy, reference, ones = padded_batch(seed)
    policy.requires_grad_()
    defaults = DPOConfig.__dataclass_fields__
    assert defaults["loss_type"].default_factory() == ["sigmoid"] and defaults["beta"].default == BETA
    trainer = trl_losses.dpo_trainer(policy, reference, "sigmoid", BETA)
    theirs = DPOTrainer._compute_loss(trainer, trainer.model, trl_losses.inputs(ones), return_outputs=False)
    ours, chosen, rejected = masked_dpo_loss(policy, reference, ones, BETA)
    torch.testing.assert_close(ours, theirs)
    metrics = trainer._metrics["train"]
    assert metrics["rewards/chosen"] == pytest.approx([chosen.mean().item()], rel=1e-5)
    assert metrics["rewards/rejected"] == pytest.approx([rejected.mean().item()], rel=1e-5)
    mine, other = (torch.autograd.grad(loss, policy, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine * ones, other * ones)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_closed_form_with_smoothed_labels(share: float) -> None:
    """cDPO: TRL's `DPOTrainer` has no label smoothing for its sigmoid loss."""

    def pair(chosen: Sums, rejected: Sums) -> tuple[float, Slopes, Slopes]:
        margin = BETA * (chosen.ratio - rejected.ratio)
        loss = (1 - share) * math.log1p(math.exp(-margin)) + share * math.log1p(math.exp(margin))
        slope = BETA * (sigmoid(margin) - (1 - share))
        return loss, Slopes(ratio=slope), Slopes(ratio=-slope)

    agrees(load("dpo", {"label_smoothing": share}), pair)
