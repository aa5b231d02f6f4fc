"""RMSNorm and gated MLPs that keep less for the backward pass.

Of what autograd keeps of a layer, a half is cheap to compute again: a norm in float32, SiLU of the gate, its product
with `up`. Results are those of transformers' modules, bit for bit; gradients are equal up to rounding. transformers
writes norm and MLP out in each model's file, so their source says whether a model has just these; others, which do
anything besides, are left as they are.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from maskdpo_ray.errors import ModelError

_NORM = """
def forward(self, hidden_states):
    input_dtype = hidden_states.dtype
    hidden_states = hidden_states.to(torch.float32)
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
    return self.weight * hidden_states.to(input_dtype)
"""
_GATED = """
def forward(self, x):
    down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return down_proj
"""
_GATED_AT_ONCE = """
def forward(self, x):
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
"""


def install(model: torch.nn.Module) -> int:
    """Have the model's norms and MLPs keep less; returns how many do."""
    count, lean = 0, {_NORM.strip(): _norm, _GATED.strip(): _gated, _GATED_AT_ONCE.strip(): _gated}
    for module in model.modules():
        if forward := lean.get(_source(type(module))):
            module.forward = partial(forward, module)  # type: ignore[method-assign]
            count += 1
    return count


def recompute(model: torch.nn.Module) -> None:
    """Checkpoint the model's layers: keep only their inputs and recompute them in the backward pass.

    transformers' own gradient checkpointing requires training mode, which also turns on dropout and router noise.
    Raises ModelError for a model without transformers' layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(model).__name__}: expected layers that transformers can compute again, found none: "
            "set model.gradient_checkpointing_enable to false"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, **options)


@cache
def _source(kind: type) -> str:
    """The class's `forward` without what it does not compute: docstring, comments, types and layout."""
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(kind.forward))).body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError, ValueError):  # made at run time, in C, or within an expression
        return ""
    if not isinstance(function, ast.FunctionDef):
        return ""
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    if ast.get_docstring(function) is not None:
        del function.body[0]
    return ast.unparse(function)


def _norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMSNorm (arXiv 1910.07467, eq. 4) of [..., D]."""
    return _Norm.apply(hidden_states, module.weight, module.variance_epsilon)


def _gated(module: Any, x: torch.Tensor) -> torch.Tensor:
    """The gated MLP (arXiv 2002.05202, eq. 6) of [..., D]: products with gate and up are kept, their product is not."""
    if not torch.is_grad_enabled():
        return type(module).forward(module, x)

    def down(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return module.down_proj(module.act_fn(gate) * up)

    return checkpoint(down, module.gate_proj(x), module.up_proj(x), use_reentrant=False)


class _Norm(torch.autograd.Function):
    """weight * x / rms(x), where transformers' autograd would keep x and x / rms(x) in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.to(torch.float32)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * wide.mul_(scale).to(x.dtype) if x.dtype != torch.float32 else weight * (wide * scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """(g - n * mean(g * n)) / rms(x), where n = x / rms(x) and g is the gradient of n."""
        x, weight, scale = ctx.saved_tensors
        normed = x.to(torch.float32) * scale
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * normed.to(x.dtype)).flatten(0, -2).sum(0)
        of_normed = (gradient * weight).to(torch.float32)
        shared = (of_normed * normed).mean(-1, keepdim=True)
        return of_normed.sub_(normed.mul_(shared)).mul_(scale).to(x.dtype), of_weight, None
