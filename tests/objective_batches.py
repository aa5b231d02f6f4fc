"""Batches for objectives, their closed forms, and objectives such as a user writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from maskdpo_ray.training.objectives.protocol import Batch, Objective, objective, sums

BETA = 0.1
NOT_ONE = 3


@dataclass
class Tokens:
    """Log-probs of 2B responses, [2B, T]: the chosen ones, then the rejected ones."""

    policy: torch.Tensor
    reference: torch.Tensor
    weights: torch.Tensor
    kls: torch.Tensor
    means: dict[str, torch.Tensor]

    def batch(self, objective: Objective, pairs: list[int] | None = None) -> Batch:
        """Batch of what the objective asks for, of all pairs or of some."""
        responses = sums(
            self.policy,
            self.reference if objective.needs_reference else None,
            self.weights,
            self.kls if objective.needs_kl else None,
        )
        count = len(self.policy) // 2
        rows = torch.tensor(list(range(count)) if pairs is None else pairs, dtype=torch.long)
        means = {role: self.means[role] for role in objective.needs_means}
        return Batch(responses[rows], responses[rows + count], means)


def tokens(num_pairs: int = 4, length: int = 6, seed: int = 0, ones: bool = False) -> Tokens:
    """Random ones in float64; weights are fractions of which about a third is 0, or `ones`, with padding at the end."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2 * num_pairs, length)
    policy, reference, weights, kls = torch.rand(4, *shape, generator=generator, dtype=torch.float64)
    weights = torch.where(weights < 0.35, 0.0, weights)
    weights[:, 0] = 0.5  # nobody is without weight
    if ones:
        lengths = torch.randint(1, length + 1, (2 * num_pairs, 1), generator=generator)
        weights = (torch.arange(length) < lengths).double()
    means = {"chosen": 0.7, "rejected": -0.4, "mismatched": 0.3}
    return Tokens(
        (-5 * policy).requires_grad_(),
        -5 * reference,
        weights,
        kls.requires_grad_(),
        {role: torch.tensor(mean, dtype=torch.float64) for role, mean in means.items()},
    )


@dataclass(frozen=True)
class Sums:
    """One response's sums, as floats."""

    policy: float
    ratio: float
    tokens: float
    kl: float


@dataclass(frozen=True)
class Slopes:
    """Derivatives of a loss by the sums of one response."""

    policy: float = 0.0
    ratio: float = 0.0
    kl: float = 0.0


Pair = Callable[[Sums, Sums], tuple[float, Slopes, Slopes]]
"""Closed form of a pair's loss: (loss, slopes of the chosen, slopes of the rejected response)."""


def agrees(objective: Objective, pair: Pair, beta: float = BETA, seeds: int = 5) -> None:
    """Assert losses and gradients of pairs within 1e-9 of a closed form; for responses, `pair` adds up two losses."""
    for seed in range(seeds):
        given = tokens(seed=seed)
        count = len(given.policy) // 2
        found = objective.losses(given.batch(objective), beta)
        chosen, rejected = [_sums(given, row) for row in range(count)], [_sums(given, count + i) for i in range(count)]
        expected = [pair(one, other) for one, other in zip(chosen, rejected, strict=True)]
        by_pair = found if len(found) == count else found[:count] + found[count:]
        assert by_pair.tolist() == pytest.approx([loss for loss, _, _ in expected], abs=1e-9, rel=1e-9)
        slopes = [own for _, own, _ in expected] + [own for _, _, own in expected]
        by_policy = torch.tensor([[own.policy + own.ratio] for own in slopes], dtype=torch.float64)
        gradients = torch.autograd.grad(found.sum(), [given.policy, given.kls], allow_unused=True)
        torch.testing.assert_close(gradients[0], by_policy * given.weights, atol=1e-9, rtol=1e-9)
        by_kl = torch.tensor([[own.kl] for own in slopes], dtype=torch.float64)
        of_kl = torch.zeros_like(given.kls) if gradients[1] is None else gradients[1]
        torch.testing.assert_close(of_kl, by_kl * given.weights, atol=1e-9, rtol=1e-9)


def _sums(given: Tokens, row: int) -> Sums:
    each = zip(*(x[row].tolist() for x in (given.policy, given.reference, given.weights, given.kls)), strict=True)
    columns = [(p, r, w, kl) for p, r, w, kl in each if w]
    return Sums(
        math.fsum(w * p for p, _, w, _ in columns),
        math.fsum(w * (p - r) for p, r, w, _ in columns),
        math.fsum(w for _, _, w, _ in columns),
        math.fsum(w * kl for _, _, w, kl in columns),
    )


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-x))


def own_margin(batch: Batch, beta: float, margin: float) -> torch.Tensor:
    """Loss of one's own, undecorated: the margin of rewards that is lacking."""
    return margin - beta * (batch.chosen.ratios - batch.rejected.ratios)


def takes_too_little(batch: Batch) -> torch.Tensor:
    """No objective: it takes no beta."""
    return batch.chosen.ratios


def scalar_loss(batch: Batch, beta: float) -> torch.Tensor:
    """Mean in place of one loss for each pair."""
    return own_margin(batch, beta, 1.0).mean()


def no_tensor(batch: Batch, beta: float) -> float:
    """Number in place of a tensor."""
    return scalar_loss(batch, beta).item()


@objective(unit="response", needs_reference=False)
def likelier(batch: Batch, beta: float) -> torch.Tensor:
    """Objective of single responses, decorated, that compares each with the others of its batch."""
    others = batch.chosen.averages.mean() - batch.chosen.averages
    return torch.cat([others.square() - batch.chosen.averages, batch.rejected.averages])


def unlearns(batch: Batch, beta: float) -> torch.Tensor:
    """The sign is wrong."""
    return beta * (batch.chosen.ratios - batch.rejected.ratios)


def by_place(batch: Batch, beta: float) -> torch.Tensor:
    """The first pair counts most."""
    return -batch.chosen.ratios / torch.arange(1, len(batch.chosen) + 1)


def detached(batch: Batch, beta: float) -> torch.Tensor:
    """No gradient."""
    return -batch.chosen.ratios.detach()


def overflows(batch: Batch, beta: float) -> torch.Tensor:
    """The sigmoid's logarithm written out: infinite where it should be large."""
    return (1 + (beta * (batch.rejected.ratios - batch.chosen.ratios)).exp()).log()


def writes(batch: Batch, beta: float) -> torch.Tensor:
    """In-place arithmetic on what it is given."""
    batch.chosen.tokens.add_(1)
    return -batch.chosen.ratios


def guesses(batch: Batch, beta: float) -> torch.Tensor:
    """Another loss at each call, and for each place."""
    return -batch.chosen.ratios * torch.rand(len(batch.chosen))


def unasked(batch: Batch, beta: float) -> torch.Tensor:
    """Reads what it has not asked for."""
    return batch.rejected.kl


def flat(batch: Batch, beta: float) -> torch.Tensor:
    """A gradient of zero."""
    return 0 * batch.chosen.ratios


def half(batch: Batch, beta: float) -> torch.Tensor:
    """Losses in another dtype, whose backward pass is that of another loss: half of it is detached."""
    ratios = batch.chosen.ratios
    return -(ratios + ratios.detach()).half()
