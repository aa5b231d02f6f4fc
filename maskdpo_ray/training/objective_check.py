"""Whether an objective keeps its contract: what a run takes for granted of it, tried on random batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from maskdpo_ray.errors import UserError, fault_of
from maskdpo_ray.terminal import Finding
from maskdpo_ray.training.objectives.protocol import Batch, Objective, Responses

_MOST = 8
"""Responses of each role in the largest batch."""
_SEEDS = range(3)


def check(objective: Objective, beta: float) -> Iterator[Finding]:
    """Try an objective; what it raises is a finding too. Ends early where it can't be computed at all."""
    first = f"losses of 1 to {_MOST} {objective.unit}s: one each, finite"
    finding = Finding(first, fault_of(lambda: _is_finite(objective, beta)))
    yield finding
    if finding.fault:
        return
    for tried, attempt, must in (
        ("losses are finite where log-ratios are 1000 nats", lambda: _is_finite(objective, beta, scale=1000.0), True),
        ("gradients are finite, and there are some", lambda: _learns(objective, beta), True),
        ("the order of a batch does not matter", lambda: _ignores_order(objective, beta), True),
        ("micro-batches add up to the batch", lambda: _adds_up(objective, beta), True),
        ("it changes none of its arguments", lambda: _changes_nothing(objective, beta), True),
        ("the same batch again: the same losses", lambda: _repeats(objective, beta), False),
        ("float32 stays float32", lambda: _keeps_dtype(objective, beta), False),
        ("gradients are those of finite differences in float64", lambda: _differentiates(objective, beta), False),
    ):
        yield Finding(tried, fault_of(attempt), must)
    if objective.unit != "pair":
        alone = "a micro-batch with responses of one role"
        yield Finding(alone, fault_of(lambda: _takes_one_role(objective, beta)))
    found: list[str] = []
    fault = fault_of(lambda: found.append(_direction(objective, beta)))
    yield Finding("where policy and reference are the same", fault, False, "".join(found))


@dataclass(frozen=True)
class _Leaves:
    """Sums of random responses, the chosen ones first, as leaves of autograd; [2 _MOST] each."""

    policy: torch.Tensor
    tokens: torch.Tensor
    ratios: torch.Tensor
    kl: torch.Tensor
    means: dict[str, torch.Tensor]

    def batch(self, objective: Objective, chosen: Sequence[int], rejected: Sequence[int]) -> Batch:
        """The responses with these numbers, with the sums that the objective asks for."""
        responses = Responses(
            self.policy,
            self.tokens,
            self.ratios if objective.needs_reference else None,
            self.kl if objective.needs_kl else None,
        )
        means: dict[str, torch.Tensor] = {role: self.means[role] for role in objective.needs_means}
        rows = ([*chosen], [_MOST + number for number in rejected])
        of_chosen, of_rejected = (responses[torch.tensor(each, dtype=torch.long)] for each in rows)
        return Batch(of_chosen, of_rejected, means)

    def whole(self, objective: Objective) -> Batch:
        """The batch of all."""
        return self.batch(objective, range(_MOST), range(_MOST))

    def inputs(self, objective: Objective) -> list[torch.Tensor]:
        """Leaves that the objective is given."""
        return [self.policy, *([self.ratios] * objective.needs_reference), *([self.kl] * objective.needs_kl)]


def _leaves(seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> _Leaves:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(5, 2 * _MOST, generator=generator, dtype=torch.float64)
    tokens = (1 + 200 * draws[0]).round()
    means = {role: scale * (draws[4, number] - 0.3) for number, role in enumerate(("chosen", "rejected", "mismatched"))}
    return _Leaves(
        (-(0.05 + draws[1]) * tokens).to(dtype).requires_grad_(),
        tokens.to(dtype),
        (scale * (2 * draws[2] - 1)).to(dtype).requires_grad_(),
        (scale * draws[3]).to(dtype).requires_grad_(),
        {role: mean.to(dtype) for role, mean in means.items()},
    )


def _is_finite(objective: Objective, beta: float, scale: float = 3.0) -> None:
    for seed in _SEEDS:
        for count in range(1, _MOST + 1):
            batch = _leaves(seed, scale, torch.float32).batch(objective, range(count), range(count))
            losses = objective.losses(batch, beta)
            if not torch.isfinite(losses).all():
                raise UserError(f"expected finite losses, got {losses[~torch.isfinite(losses)][0].item()}")


def _takes_one_role(objective: Objective, beta: float) -> None:
    for chosen, rejected in ((range(3), range(0)), (range(0), range(3))):
        objective.losses(_leaves().batch(objective, chosen, rejected), beta)


def _gradients(objective: Objective, leaves: _Leaves, losses: torch.Tensor) -> list[torch.Tensor]:
    if not losses.requires_grad:
        raise UserError("expected losses with a gradient, got constants: is everything detached?")
    inputs = leaves.inputs(objective)
    found = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)
    return [torch.zeros_like(leaf) if each is None else each for leaf, each in zip(inputs, found, strict=True)]


def _learns(objective: Objective, beta: float) -> None:
    for scale in (3.0, 1000.0):
        leaves = _leaves(scale=scale, dtype=torch.float32)
        gradients = _gradients(objective, leaves, objective.losses(leaves.whole(objective), beta))
        if not all(torch.isfinite(each).all() for each in gradients):
            raise UserError(f"expected finite gradients, got others where log-ratios are {scale:.0f} nats")
        if scale == 3.0 and not any(each.any() for each in gradients):
            raise UserError("expected a gradient, got zeros")


def _ignores_order(objective: Objective, beta: float) -> None:
    leaves, order = _leaves(), [5, 0, 7, 2, 4, 1, 6, 3]
    losses = objective.losses(leaves.whole(objective), beta)
    other = objective.losses(leaves.batch(objective, order, order), beta)
    expected = torch.cat([part[order] for part in losses.split(_MOST)])
    if not torch.allclose(other, expected, rtol=1e-9, atol=1e-9):
        raise UserError("the loss of a pair or response depends on its place in the batch")


def _adds_up(objective: Objective, beta: float) -> None:
    leaves = _leaves()
    whole = objective.losses(leaves.whole(objective), beta)
    parts, gradients = 0.0, [torch.zeros_like(each) for each in leaves.inputs(objective)]
    for some in (range(3), range(3, 4), range(4, _MOST)):
        losses = objective.losses(leaves.batch(objective, some, some), beta)
        parts += losses.sum().item()
        gradients = [a + b for a, b in zip(gradients, _gradients(objective, leaves, losses), strict=True)]
    advice = "a loss may depend on its own pair or response only; @objective(needs_means=...) has global means"
    if abs(parts - whole.sum().item()) > 1e-9 * (1 + abs(parts)):
        raise UserError(f"expected losses of {whole.sum().item():.6g} in all, got {parts:.6g} in three parts: {advice}")
    for one, other in zip(gradients, _gradients(objective, leaves, whole), strict=True):
        if not torch.allclose(one, other, rtol=1e-9, atol=1e-9):
            raise UserError(f"the gradients of three parts do not add up to the batch's: {advice}")


def _changes_nothing(objective: Objective, beta: float) -> None:
    leaves = _leaves()
    batch = leaves.whole(objective)
    before = [each.clone() for each in _tensors(batch)]
    objective.losses(batch, beta)
    if not all(torch.equal(one, other) for one, other in zip(before, _tensors(batch), strict=True)):
        raise UserError("it writes into the batch")


def _tensors(batch: Batch) -> list[torch.Tensor]:
    parts = [getattr(side, part.name) for side in (batch.chosen, batch.rejected) for part in dataclasses.fields(side)]
    return [part for part in (*parts, *batch.means.values()) if part is not None]


def _repeats(objective: Objective, beta: float) -> None:
    one, other = (objective.losses(_leaves().whole(objective), beta) for _ in range(2))
    if not torch.equal(one, other):
        raise UserError("losses differ from call to call: a run can't be repeated")


def _keeps_dtype(objective: Objective, beta: float) -> None:
    losses = objective.losses(_leaves(dtype=torch.float32).whole(objective), beta)
    if losses.dtype != torch.float32:
        raise UserError(f"expected torch.float32, got {losses.dtype}")


def _differentiates(objective: Objective, beta: float) -> None:
    leaves = _leaves()
    names = ["policy", *["ratios"] * objective.needs_reference, *["kl"] * objective.needs_kl]

    def losses(*inputs: torch.Tensor) -> torch.Tensor:
        moved = dataclasses.replace(leaves, **dict(zip(names, inputs, strict=True)))
        return objective.losses(moved.whole(objective), beta)

    for number, name in enumerate(names):
        inputs = [each.detach().clone() for each in leaves.inputs(objective)]
        inputs[number].requires_grad_()
        attempt: Callable[..., object] = losses
        if not losses(*inputs).requires_grad:  # gradcheck refuses an output that does not depend on its input
            continue
        if not torch.autograd.gradcheck(attempt, inputs, eps=1e-6, atol=1e-5, raise_exception=False):
            raise UserError(f"not by `{name}`: right if a part of the loss is detached on purpose, or has a kink")


def _direction(objective: Objective, beta: float) -> str:
    """Loss and slopes at the start of a training on-policy; raises UserError for those that unlearn."""
    leaves = _leaves()
    leaves.ratios.data.zero_()
    leaves.kl.data.zero_()
    for mean in leaves.means.values():
        mean.zero_()
    losses = objective.losses(leaves.whole(objective), beta)
    slopes = sum(_gradients(objective, leaves, losses))
    assert isinstance(slopes, torch.Tensor)
    moves = {}
    for role, part in zip(("chosen", "rejected"), slopes.split(_MOST), strict=True):
        moves[role] = "down" if part.mean() > 0 else "up" if part.mean() < 0 else "unmoved"
    text = f"loss {losses.mean().item():.4g}, {', '.join(f'{role} {move}' for role, move in moves.items())}"
    if moves["chosen"] == "down" or moves["rejected"] == "up":
        raise UserError(f"{text}: expected the other way round; is a sign wrong?")
    return text
