"""A loaded model's prefix tree against plain rows, on a few random tokens.

Whether positions and masks alone say what a token sees depends on the model's code: some count places in the row. A
model whose tree is wrong learns from wrong log-probs without a sign of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from maskdpo_ray import noise, tree_attention
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.errors import ModelError
from maskdpo_ray.forward import ALL_SAVINGS, response_logps


def check(model: Any, dtype: str, device: torch.device | str, has_gradient: bool) -> None:
    """Raise ModelError when log-probs of a tree, or a gradient through it, are not those of plain rows.

    Under ZeRO-3 all ranks call it. No gradient of a weight is touched.

    Args:
        model: with its attention installed, in evaluation mode.
        dtype: fp32 or bf16: what rounding may do.
        has_gradient: compare that of the embedded tokens as well, summed over all places of a token.
    """
    pairs = _pairs(model.config.get_text_config().vocab_size)
    got = _results(model, pairs, device, True, has_gradient)
    with tree_attention.plain_rows(model):
        expected = _results(model, pairs, device, False, has_gradient)
    error = ((got[0] - expected[0]).abs().sum() / (expected[0] != 0).sum()).item()
    wrong = [] if error <= noise.LOGPS[dtype] else [f"log-probs by {error:.2g} on average"]  # NaN is wrong
    if has_gradient:
        error = ((got[1] - expected[1]).norm() / expected[1].norm()).item()
        wrong += [] if error <= noise.GRADIENT[dtype] else [f"gradients by {error:.0%}"]
    if wrong:
        raise ModelError(
            f"{type(model).__name__}: a prefix tree gives other results than a row for each answer ({', '.join(wrong)} "
            "on random tokens): set savings.prefix_tree to false and go on"
        )


def _pairs(vocabulary: int) -> list[TrainingExample]:
    """Two pairs that share a prompt's beginning, and whose answers begin alike."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    shared, pairs = ids(7), []
    for name, sizes in (("a", (9, 4)), ("b", (5, 12))):
        prompt, beginning = shared + ids(3), ids(2)
        chosen, rejected = (beginning + ids(size) for size in sizes)
        pairs.append(TrainingExample(name, prompt, chosen, rejected, (1.0,) * len(chosen), (1.0,) * len(rejected)))
    return pairs


def _results(
    model: Any, pairs: list[TrainingExample], device: torch.device | str, is_tree: bool, has_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs [2B, T], gradient [distinct tokens, D] of a sum of them by the embedded tokens, or nothing)."""
    savings = replace(ALL_SAVINGS, prefix_tree=is_tree)
    if not has_gradient:
        with torch.no_grad():
            return response_logps(model, pairs, device, savings)[0], torch.empty(0)
    with _embedded(model) as embedded:
        logps, _ = response_logps(model, pairs, device, savings)
        directions = torch.linspace(-1.5, 1.0, logps.numel(), device=logps.device).view_as(logps)
        (token_ids, values), *_ = embedded
        (gradient,) = torch.autograd.grad((logps * directions).sum(), values)
    used = {0}.union(*(p.prompt_token_ids + p.chosen_token_ids + p.rejected_token_ids for p in pairs))  # 0 pads
    known = torch.tensor(sorted(used), device=token_ids.device)
    sums = torch.zeros(len(known), gradient.shape[-1], device=gradient.device)
    places = torch.searchsorted(known, token_ids.flatten())
    return logps.detach(), sums.index_add_(0, places, gradient.flatten(0, -2).float())


@contextmanager
def _embedded(model: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Inside, the model's embeddings are the only leaves of autograd's graph, and listed: (token ids, embeddings)."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cut(module: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_()
        found.append((arguments[0], leaf))
        return leaf

    hook = model.get_input_embeddings().register_forward_hook(cut)
    for parameter in learning:  # else hooks of DeepSpeed's may take a gradient for a training step's
        parameter.requires_grad_(False)
    try:
        yield found
    finally:
        hook.remove()
        for parameter in learning:
            parameter.requires_grad_(True)
