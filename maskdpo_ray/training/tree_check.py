"""Checks of a loaded model on a few random tokens: padded rows against one row alone, a prefix tree against rows.

A tree relies on positions and masks alone to define what a token attends to, and a padded row on padding that nothing
reads; some models' code does not keep to that, and would silently learn from wrong log-probs. What a model computes
decides, whatever its name.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.errors import ModelError, one_line
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import guards, tree_attention
from maskdpo_ray.training.forward import response_logps
from maskdpo_ray.training.ways import Way

_SHARED = 2
"""Tokens that both answers of a pair begin with."""


def settle(
    model: Any,
    way: Way,
    wanted: SavingsConfig,
    dtype: str,
    device: torch.device | str,
    has_gradient: bool,
    any_rank: Callable[[bool], bool] = bool,
) -> Way:
    """Decide how a model takes its micro-batches, and set its attention for that.

    Collective under ZeRO-3. Doesn't change any weight's gradient.

    Args:
        model: in evaluation mode, or DeepSpeed's engine around it; as a tree, with its attention installed.
        way: the way by config and code; a tree that differs from rows becomes rows.
        wanted: the config's savings.
        dtype: fp32 or bf16, which sets the tolerance.
        has_gradient: also compare a tree's gradient of the token embeddings, summed over all positions of a token.
        any_rank: tells whether a condition holds on any rank: all ranks go one way.

    Raises ModelError when padded rows differ from a row alone, or log-probs are not finite.
    """
    plain = getattr(model, "module", model)
    examples = _examples(plain.config.get_text_config().vocab_size)
    savings = way.savings(wanted)
    ways, padded = tree_attention.row_ways(plain)[-1 if way.is_eager else 0 :], replace(savings, prefix_tree=False)

    def of_rows(attention: str) -> tuple[torch.Tensor, torch.Tensor]:
        with tree_attention.plain_rows(plain, attention):
            return _results(model, examples, device, padded, has_gradient)

    # Gradients first: DeepSpeed's ZeRO-3 takes the order of layers from the passes before, and its engine is passed by.
    got = _of_tree(model, examples, savings, device, has_gradient) if savings.prefix_tree else ""
    first = of_rows(ways[0]) if savings.prefix_tree else None
    attention, logps = _rows(model, examples, ways, padded, dtype, device, any_rank)
    if first is not None:
        expected = first if attention == ways[0] else of_rows(attention)
        if has_gradient and any_rank(not expected[1].isfinite().all()):
            raise _not_finite(plain)
        odd = got if isinstance(got, str) else _odds(got, (logps, expected[1]), examples, dtype, has_gradient)
        if not any_rank(bool(odd)):
            return way
        found = odd or "it gives other results on another rank"
        way = replace(way, obstacle=f"{type(plain).__name__}: as a tree {found}")
    tree_attention.use_rows(plain, attention)
    return way


def logps(model: Any) -> torch.Tensor:
    """[R, T]: log-probs of a model on a CPU, in evaluation mode, on padded rows of random tokens."""
    examples = _examples(model.config.get_text_config().vocab_size)
    return _results(model, examples, "cpu", SavingsConfig(prefix_tree=False, head_at_targets=False), False)[0]


def _rows(
    model: Any,
    examples: list[TrainingExample],
    ways: list[str],
    savings: SavingsConfig,
    dtype: str,
    device: torch.device | str,
    any_rank: Callable[[bool], bool],
) -> tuple[str, torch.Tensor]:
    """(attention, log-probs [R, T]) of padded rows that are right, by the first attention of `ways` that is.

    Raises ModelError when none is.
    """
    shortest, plain = replace(examples[0], responses=examples[0].responses[1:]), getattr(model, "module", model)
    with tree_attention.plain_rows(plain, ways[-1]):
        alone = _results(model, [shortest], device, savings, False)[0]
    reasons = []
    for attention in ways:
        with tree_attention.plain_rows(plain, attention):
            logps = _results(model, examples, device, savings, False)[0]
        if any_rank(not (alone.isfinite().all() and logps.isfinite().all())):
            raise _not_finite(plain)
        row = logps[len(examples)]
        size, limit = alone.shape[1], _limit(dtype)
        padded = (row[:size] - alone[0]).abs().mean().item()
        # The same tokens, and others behind them: a model that reads these is no causal one.
        behind = (logps[0, :_SHARED] - row[:_SHARED]).abs().mean().item()
        reason = ""
        if not behind <= limit:
            reason = f"the tokens behind a token change its log-prob by {behind:.2g}, so it is not causal"
        elif not padded <= limit:
            reason = f"a padded row gives other log-probs than the row alone, by {padded:.2g} on average"
        if not any_rank(bool(reason)):
            return attention, logps
        reasons.append(f"{reason or 'another rank differs'} ({attention} attention)")
    raise ModelError(f"{type(plain).__name__}: can't be trained: {reasons[-1]}")


def _of_tree(
    model: Any, examples: list[TrainingExample], savings: SavingsConfig, device: torch.device | str, has_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor] | str:
    """`_results` of a tree, or words on how it fails."""
    try:
        return _results(model, examples, device, savings, has_gradient)
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # custom code fails in ways of its own on arguments that it does not expect
        return f"it fails with {type(failure).__name__}: {one_line(failure)}"


def _odds(
    got: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[torch.Tensor, torch.Tensor],
    examples: list[TrainingExample],
    dtype: str,
    has_gradient: bool,
) -> str:
    """Words on how a tree differs from rows; empty if it doesn't."""
    wrong = []  # limits times sizes, not shares: a head of zeros has no gradient; NaN is wrong
    num_tokens = sum(example.num_response_tokens for example in examples)
    error = (got[0] - expected[0]).abs().sum().item()
    if not error <= _limit(dtype) * num_tokens:
        wrong.append(f"log-probs differ by {error / num_tokens:.2g} on average")
    if has_gradient:
        error, norm = (got[1] - expected[1]).norm().item(), expected[1].norm().item()
        if not error <= guards.GRADIENT[dtype] * norm:
            wrong.append(f"gradients differ by {error / norm if norm else math.inf:.0%}")
    return ", ".join(wrong)


def _limit(dtype: str) -> float:
    """Mean error of a token's log-prob, nats."""
    return guards.CHECKED[dtype]


def _not_finite(model: Any) -> ModelError:
    return ModelError(
        f"{type(model).__name__}: expected finite log-probs and gradients, got others on random tokens: the "
        "weights are broken, or were not loaded as they are in their folder"
    )


def _examples(vocabulary: int) -> list[TrainingExample]:
    """Two pairs whose prompts share a prefix, and whose answers do as well."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    shared, examples = ids(7), []
    for name, sizes in (("a", (9, 4)), ("b", (5, 12))):
        prompt, beginning = shared + ids(3), ids(_SHARED)
        chosen, rejected = (beginning + ids(size) for size in sizes)
        weights = [(1.0,) * len(answer) for answer in (chosen, rejected)]
        examples.append(TrainingExample.of_pair(name, prompt, chosen, rejected, *weights))
    return examples


def _results(
    model: Any, examples: list[TrainingExample], device: torch.device | str, savings: SavingsConfig, has_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs [R, T], gradient [distinct tokens, D] of their sum with respect to the embeddings, if wanted)."""
    if not has_gradient:
        with torch.no_grad():
            return response_logps(model, examples, device, savings)[0], torch.empty(0)
    plain = getattr(model, "module", model)  # DeepSpeed's engine would count the gradient towards a training step
    with _embedded(plain) as embedded:
        logps, _ = response_logps(plain, examples, device, savings)
        directions = torch.linspace(-1.5, 1.0, logps.numel(), device=logps.device).view_as(logps)
        (token_ids, values), *_ = embedded
        (gradient,) = torch.autograd.grad((logps * directions).sum(), values)
    used = {0}.union(  # 0 pads
        *(each.prompt_token_ids for each in examples),
        *(response.token_ids for each in examples for response in each.responses),
    )
    known = torch.tensor(sorted(used), device=token_ids.device)
    sums = torch.zeros(len(known), gradient.shape[-1], device=gradient.device)
    places = torch.searchsorted(known, token_ids.flatten())
    return logps.detach(), sums.index_add_(0, places, gradient.flatten(0, -2).float())


@contextmanager
def _embedded(model: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Context in which the embeddings are the only autograd leaves, collected in a list of (token ids, embeddings)."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cut(module: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_()
        found.append((arguments[0], leaf))
        return leaf

    hook = model.get_input_embeddings().register_forward_hook(cut)
    for parameter in learning:  # else DeepSpeed's hooks may count a gradient as a training step's
        parameter.requires_grad_(False)
    try:
        yield found
    finally:
        hook.remove()
        for parameter in learning:
            parameter.requires_grad_(True)
