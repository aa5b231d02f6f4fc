"""Objectives by name: what a batch gives them, what they say of themselves, what they return. One file each.

An objective is a pure function of sums over the tokens of responses; nothing here or in the objectives knows of models,
ranks or micro-batches. docs/objectives.md has the table of them, and how to write one's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from maskdpo_ray.config.plugins import FunctionSlot, listed
from maskdpo_ray.config.schema import Rule, at_least
from maskdpo_ray.errors import ConfigError

if TYPE_CHECKING:  # naming the objectives (--help, a config's errors) takes no torch
    import torch

Unit = Literal["pair", "response", "chosen response"]
Role = Literal["chosen", "rejected", "mismatched"]
# Types of options that several objectives have.
Weight = Annotated[float, at_least(0)]
Smoothing = Annotated[float, Rule("0 to below 0.5", lambda share: 0 <= share < 0.5)]


@dataclass(frozen=True)
class Responses:
    """R responses, each by its sums over the tokens t, w_t being a token's weight: [R] float32 or float64.

    A sum that the objective has not asked for is not there, and reading it raises LookupError.
    """

    policy: torch.Tensor
    """sum_t w_t log pi_theta(y_t | x, y_<t), with gradient."""
    tokens: torch.Tensor
    """sum_t w_t: the tokens, where weights are 0 and 1."""
    reference_ratios: torch.Tensor | None = None
    """See `ratios`."""
    reference_kl: torch.Tensor | None = None
    """See `kl`."""

    def __len__(self) -> int:
        """How many."""
        return len(self.policy)

    def __getitem__(self, rows: Sequence[int] | slice | torch.Tensor) -> Responses:
        """Some of the responses, in the order of `rows`: indices, a slice, or an int64 tensor."""
        parts = (self.policy, self.tokens, self.reference_ratios, self.reference_kl)
        return Responses(*(None if part is None else part[rows] for part in parts))

    @property
    def ratios(self) -> torch.Tensor:
        """sum_t w_t (log pi_theta(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t)), with gradient: Mask-DPO's M, eq. 5."""
        return _asked(self.reference_ratios, "ratios", "needs_reference=True")

    @property
    def kl(self) -> torch.Tensor:
        """sum_t w_t KL(pi_ref(. | x, y_<t) || pi_theta(. | x, y_<t)), over the vocabulary, with gradient."""
        return _asked(self.reference_kl, "kl", "needs_kl=True")

    @property
    def averages(self) -> torch.Tensor:
        """Mean log-prob of a token, `policy` / `tokens`, with gradient; 0 for a response without weight."""
        return self.per_token(self.policy)

    def per_token(self, sums: torch.Tensor) -> torch.Tensor:
        """Divide sums over tokens, [R], by `tokens`; 0 for a response without weight."""
        has_weight = self.tokens > 0
        # Selected before it is divided: the gradient of 0/0 is nan.
        return sums.where(has_weight, 0.0) / self.tokens.where(has_weight, 1.0)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of examples."""

    chosen: Responses
    rejected: Responses
    """For objectives of pairs, row i of both is of one pair; for others the two may differ in length, or be empty."""
    means: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Role -> mean of `ratios` over all responses of this role in the GLOBAL batch, scalar, without gradient."""

    def mean(self, role: Role) -> torch.Tensor:
        """See `means`. Raises LookupError for a role that the objective has not asked for."""
        return _asked(self.means.get(role), f"mean({role!r})", f"needs_means=({role!r},)")


def _asked(value: torch.Tensor | None, name: str, trait: str) -> torch.Tensor:
    if value is None:
        raise LookupError(f"{name} is not there: the objective needs @objective({trait})")
    return value


def sums(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor | None,
    weights: torch.Tensor,
    kls: torch.Tensor | None = None,
) -> Responses:
    """Sum over the tokens of R responses.

    Args:
        policy_logps: [R, T] float, log pi_theta of each token. What stands where the weight is 0 (padding, masked
            tokens) is not read, -inf and nan included, and gets no gradient.
        reference_logps: [R, T] float, log pi_ref of the same tokens; None where the objective needs no reference.
        weights: [R, T] float, at least 0.
        kls: [R, T] float, KL(pi_ref || pi_theta) at each token, where the objective asks for it.

    Returns sums in float32, or float64 when one of the log-probs is.
    """
    import torch

    # bf16 sums over hundreds of tokens would lose the small differences that preference objectives learn from.
    dtype = torch.promote_types(policy_logps.dtype, torch.float32)
    if reference_logps is not None:
        dtype = torch.promote_types(dtype, reference_logps.dtype)
    weights = weights.to(dtype)

    def summed(values: torch.Tensor) -> torch.Tensor:
        # Selected before they are weighed: 0 * -inf is nan, and so would be its gradient.
        return (weights * torch.where(weights != 0, values, 0.0)).sum(dim=-1)

    policy_logps = policy_logps.to(dtype)
    return Responses(
        summed(policy_logps),
        weights.sum(dim=-1),
        None if reference_logps is None else summed(policy_logps - reference_logps.to(dtype)),
        None if kls is None else summed(kls.to(dtype)),
    )


@dataclass(frozen=True)
class Objective:
    """An objective's function, what it needs, and the options that a config gives it."""

    function: Callable[..., torch.Tensor]
    unit: Unit
    """Unit that has one loss: a pair, a response (chosen or rejected), or a chosen response."""
    needs_reference: bool
    """Whether it reads `ratios`. If not, no reference model runs."""
    needs_kl: bool
    """Whether it reads `kl`: the reference runs in every step, for its whole distribution."""
    needs_means: tuple[Role, ...]
    """Roles whose `Batch.mean` it reads, which takes a pass without gradient over the global batch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The function's keyword arguments."""

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the responses that it learns from."""
        return ("chosen",) if self.unit == "chosen response" else ("chosen", "rejected")

    @property
    def needs_mismatched(self) -> bool:
        """Whether examples need a response of another question: KTO's estimate of the KL divergence."""
        return "mismatched" in self.needs_means

    def num_units(self, num_chosen: int, num_rejected: int) -> int:
        """How many losses there are of a batch; their mean over the global batch is the loss."""
        return num_chosen + num_rejected if self.unit == "response" else num_chosen

    def losses(self, batch: Batch, beta: float) -> torch.Tensor:
        """Losses of the units, [N] with gradient: pairs, or the chosen responses and then the rejected ones.

        Raises ConfigError when the function returns something else.
        """
        found = self.function(batch, beta, **self.options)
        expected = [self.num_units(len(batch.chosen), len(batch.rejected))]
        shape = list(getattr(found, "shape", ()))
        if shape != expected:
            what = f"a loss for each {self.unit}, a tensor of shape {expected}"
            got = shape if hasattr(found, "shape") else type(found).__name__
            raise ConfigError(f"objective.name: {self.name}: expected {what}, got {got}")
        return found

    __call__ = losses

    def rewards(self, responses: Responses, beta: float) -> torch.Tensor:
        """Implicit rewards for the log, [R] without gradient: beta `ratios`, without a reference beta `policy`."""
        return (beta * (responses.ratios if self.needs_reference else responses.policy)).detach()


def objective(
    unit: Unit = "pair", needs_reference: bool = True, needs_kl: bool = False, needs_means: tuple[Role, ...] = ()
) -> Callable[[Callable[..., torch.Tensor]], Objective]:
    """Make a function (batch, beta, **options) -> losses [N] an `Objective`, whose fields these are."""

    def made(function: Callable[..., torch.Tensor]) -> Objective:
        return Objective(function, unit, needs_reference or needs_kl or bool(needs_means), needs_kl, needs_means)

    return made


_SLOT = FunctionSlot("objective.name", "objective.options", listed(__package__), ("batch", "beta"))


def names() -> list[str]:
    """All objectives that lie in this folder, sorted; without importing them."""
    return list(_SLOT.known)


def load(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of a name with `options`, the keyword arguments of its function.

    Args:
        name: of a file in this folder, or `python:package.module:function`. A function of the user's that is no
            `@objective` is taken for one of pairs, with a reference.

    Raises ConfigError, a line that begins with objective.name or objective.options.
    """
    found = _SLOT.find(name)
    made = found if isinstance(found, Objective) else objective()(found)
    return dataclasses.replace(made, options=_SLOT.check_options(made.function, options))
