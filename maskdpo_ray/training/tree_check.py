"""Check of a loaded model's prefix tree against plain rows, on a few random tokens.

Prefix trees rely on positions and masks alone to define what a token attends to, but some models' code counts indices
in the row. Such a model would silently learn from wrong log-probs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import guards, tree_attention
from maskdpo_ray.training.forward import ALL_SAVINGS, response_logps


def check(model: Any, dtype: str, device: torch.device | str, has_gradient: bool) -> None:
    """Raise ModelError when log-probs of a tree, or a gradient through it, differ from those of plain rows, or when
    those are not finite.

    Collective under ZeRO-3. Doesn't change any weight's gradient.

    Args:
        model: with its attention installed, in evaluation mode.
        dtype: fp32 or bf16, which sets the tolerance.
        has_gradient: also compare the gradient of the token embeddings, summed over all positions of a token.
    """
    examples = _examples(model.config.get_text_config().vocab_size)
    got = _results(model, examples, device, True, has_gradient)
    with tree_attention.plain_rows(model):
        expected = _results(model, examples, device, False, has_gradient)
    if not all(result.isfinite().all() for result in expected):
        raise ModelError(
            f"{type(model).__name__}: expected finite log-probs and gradients, got others on random tokens: the "
            "weights are broken, or were not loaded as they are in their folder"
        )
    wrong = []  # limits times sizes, not shares: a head of zeros has no gradient; NaN is wrong
    num_tokens = sum(example.num_response_tokens for example in examples)
    error = (got[0] - expected[0]).abs().sum().item()
    if not error <= guards.LOGPS[dtype] * num_tokens:
        wrong.append(f"log-probs by {error / num_tokens:.2g} on average")
    if has_gradient:
        error, norm = (got[1] - expected[1]).norm().item(), expected[1].norm().item()
        if not error <= guards.GRADIENT[dtype] * norm:
            wrong.append(f"gradients by {error / norm if norm else math.inf:.0%}")
    if wrong:
        raise ModelError(
            f"{type(model).__name__}: a prefix tree gives other results than a row for each answer ({', '.join(wrong)} "
            "on random tokens): set savings.prefix_tree to false and resume"
        )


def _examples(vocabulary: int) -> list[TrainingExample]:
    """Two pairs whose prompts share a prefix, and whose answers do as well."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    shared, examples = ids(7), []
    for name, sizes in (("a", (9, 4)), ("b", (5, 12))):
        prompt, beginning = shared + ids(3), ids(2)
        chosen, rejected = (beginning + ids(size) for size in sizes)
        weights = [(1.0,) * len(answer) for answer in (chosen, rejected)]
        examples.append(TrainingExample.of_pair(name, prompt, chosen, rejected, *weights))
    return examples


def _results(
    model: Any, examples: list[TrainingExample], device: torch.device | str, is_tree: bool, has_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs [R, T], gradient [distinct tokens, D] of their sum with respect to the embeddings, if wanted)."""
    savings = replace(ALL_SAVINGS, prefix_tree=is_tree)
    if not has_gradient:
        with torch.no_grad():
            return response_logps(model, examples, device, savings)[0], torch.empty(0)
    with _embedded(model) as embedded:
        logps, _ = response_logps(model, examples, device, savings)
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
