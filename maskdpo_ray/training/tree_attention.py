"""Attention over a prefix tree, without the work of a full N x N mask.

Of a tree of several pairs most of the N x N scores are masked: a pair's nodes see what they share with others (the
trunk) and themselves, never another pair's. So each pair is a row of a batch of its own, whose keys are the trunk's
and its own. On CUDA, FlexAttention skips masked blocks instead. Both are exact.

Registered with transformers under a name, as its attention interface wants it; what a tree looks like goes along as an
argument of the model's forward, which hands unknown ones to its attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from maskdpo_ray.errors import ModelError
from maskdpo_ray.training import prefix_tree
from maskdpo_ray.training.prefix_tree import SHARED, PrefixTree

GROUPED, FLEX = "maskdpo_grouped", "flex_attention"
_CHANGES = ("softcap", "s_aux", "position_bias", "block_indices", "indices")
"""Arguments of transformers' attention where it is not softmax(q k^T * scaling) v over all keys before."""


@dataclass(frozen=True)
class Layout:
    """T nodes of the trunk, G owners with at most L nodes of their own, N nodes in all."""

    trunk: torch.Tensor
    """[T] int64: nodes."""
    own: torch.Tensor
    """[G * L] int64: nodes, an owner's one after the other, padded with any node."""
    trunk_mask: torch.Tensor
    """[1, 1, T, T] bool."""
    own_mask: torch.Tensor
    """[G, 1, L, T + L] bool; what pads sees itself."""
    order: torch.Tensor
    """[N] int64: where node i is among the T + G * L outputs."""


def layout(tree: PrefixTree, device: torch.device | str) -> Layout:
    """The cut of a tree into trunk and owners, on `device`."""
    trunk = np.flatnonzero(tree.owners == SHARED)
    owned = [np.flatnonzero(tree.owners == owner) for owner in np.unique(tree.owners[tree.owners != SHARED])]
    longest = max(map(len, owned), default=0)
    own = np.zeros((len(owned), longest), dtype=np.int64)
    own_mask = np.zeros((len(owned), longest, len(trunk) + longest), dtype=bool)
    order = np.zeros(len(tree.token_ids), dtype=np.int64)
    order[trunk] = np.arange(len(trunk))
    for row, nodes in enumerate(owned):
        size = len(nodes)
        own[row, :size] = nodes
        own_mask[row, :size, : len(trunk)] = tree.sees(nodes[:, None], trunk[None, :])
        own_mask[row, :size, len(trunk) : len(trunk) + size] = tree.sees(nodes[:, None], nodes[None, :])
        padding = np.arange(size, longest)
        own_mask[row, padding, len(trunk) + padding] = True
        order[nodes] = len(trunk) + row * longest + np.arange(size)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    trunk_mask = tree.sees(trunk[:, None], trunk[None, :])[None, None]
    return Layout(tensor(trunk), tensor(own.reshape(-1)), tensor(trunk_mask), tensor(own_mask[:, None]), tensor(order))


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one row of nodes, as transformers' attention interface wants it.

    Args:
        query: [1, H, N, D].
        key: [1, K, N, D]; H is a multiple of K.
        value: [1, K, N, E]; E is D in most models.
        attention_mask: None: the tree says all.
        tree: of these N nodes; None: of one node.

    Returns:
        ([1, N, H, E], None).

    Raises ModelError for attention of other kinds, and when the model has not handed on the tree.
    """
    _refuse_others(module, query.shape[2], attention_mask, tree, others)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is None:
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
        output = F.scaled_dot_product_attention(query, key, value, None, dropout, is_causal=True, scale=scaling)
        return output.transpose(1, 2).contiguous(), None
    num_keys, num_trunk, num_owners, longest = key.shape[1], len(tree.trunk), *tree.own_mask.shape[:3:2]
    rows = [each[0].transpose(0, 1).flatten(1) for each in (query, key, value)]  # [N, heads * (D or E)]
    shapes = [(num_keys, each.shape[1] // num_keys, each.shape[3]) for each in (query, key, value)]

    def heads(nodes: torch.Tensor, count: int, length: int) -> list[torch.Tensor]:
        """[count, K, R, length, D] queries, and [count, K, 1, length, D or E] keys and values, of these nodes."""
        picked = [
            each.index_select(0, nodes).view(count, length, *shape) for each, shape in zip(rows, shapes, strict=True)
        ]
        return [each.permute(0, 2, 3, 1, 4) for each in picked]

    outputs, trunk = [], heads(tree.trunk, 1, num_trunk)
    if num_trunk:
        outputs.append(_attend(*trunk, tree.trunk_mask, dropout, scaling))
    if num_owners:
        queries, *own = heads(tree.own, num_owners, longest)
        shared = [each.expand(num_owners, -1, -1, -1, -1) for each in trunk[1:]]
        keys, values = (torch.cat(pair, dim=3) for pair in zip(shared, own, strict=True))
        outputs.append(_attend(queries, keys, values, tree.own_mask, dropout, scaling))
    output = torch.cat(outputs).index_select(0, tree.order)
    return output.view(1, len(tree.order), -1, value.shape[-1]), None


def _refuse_others(
    module: torch.nn.Module, size: int, mask: torch.Tensor | None, tree: Layout | None, others: dict[str, Any]
) -> None:
    """Raise ModelError when a model asks `attention` for what it does not compute."""
    found = [name for name in _CHANGES if others.get(name) is not None]
    is_causal = others.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        found.append("is_causal=False")
    if mask is not None:
        found.append("a mask of its own")
    if tree is None and size > 1:
        found.append("no tree, which the model's layers do not hand on")
    if found:
        raise ModelError(f"{type(module).__name__}: expected plain attention to all tokens before, got {found[0]}")


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, dropout: float, scaling: float
) -> torch.Tensor:
    """Attention of `count` rows apart.

    Args:
        query: [count, K, R, L, D]: the R query heads of each of K key heads.
        key: [count, K, 1, S, D].
        value: [count, K, 1, S, E].
        mask: [count, 1, L, S] bool.

    Returns:
        [count * L, K * R * E].
    """
    count, num_keys, repeats, length, size = query.shape
    # The query heads of a key head one below the other: keys and values are read where they are.
    query, key, value = query.reshape(count, num_keys, -1, size), key.flatten(1, 2), value.flatten(1, 2)
    if dropout or query.device.type != "cpu":
        mask = mask.repeat(1, 1, repeats, 1)
        output = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling)
    else:
        output = _Attention.apply(query, key, value, mask, scaling)
    return output.unflatten(2, (repeats, length)).permute(0, 3, 1, 2, 4).reshape(count * length, -1)


class _Attention(torch.autograd.Function):
    """softmax(q k^T * scaling) v (arXiv 1706.03762, eq. 1), with scores in the dtype of q.

    torch's own kernel for CPUs takes two to three times as long in bfloat16 (its products don't use the CPU's matrix
    instructions). Rounds as transformers' "eager" attention does. Remove when torch's kernel is as fast.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Attend as `_attend` does; query [count, K, R * L, D], key [count, K, S, D], value [count, K, S, E]."""
        ctx.scaling = scaling
        ctx.save_for_backward(query, key, value, mask)
        return _shares(query, key, mask, scaling) @ value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        # Computed again: memory stays linear in the nodes.
        shares = _shares(query, key, mask, ctx.scaling)
        of_shares = gradient @ value.mT
        of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(ctx.scaling)
        return of_scores @ key, of_scores.mT @ query, shares.mT @ gradient, None, None


def _shares(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention weights [count, K, R * L, S]; each row of the mask marks a key at least."""
    scores = (query @ key.mT).mul_(scaling)
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill_(~mask, -torch.inf)
    scores.unflatten(2, (-1, mask.shape[2])).add_(bias[:, :, None])
    return scores.softmax(-1)


def flex_mask(tree: PrefixTree, device: torch.device | str) -> Any:
    """FlexAttention's BlockMask of a tree; two numbers for each node say all."""
    from torch.nn.attention.flex_attention import create_block_mask

    ends = torch.from_numpy(tree.ends).to(device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    size = len(tree.token_ids)
    return create_block_mask(sees, None, None, size, size, device=device)


def install(model: Any) -> str:
    """Have a Hugging Face model attend in the fastest exact way that it supports; returns the way's name.

    On CUDA FlexAttention, on CPU `attention`; transformers' SDPA with an N x N mask for models without transformers'
    attention interface. Raises ModelError for a model that takes none of these: "eager" attention would add a mask of
    bools to its scores.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(GROUPED, attention)
    on_cuda = next(model.parameters()).device.type == "cuda"
    if on_cuda and model._supports_flex_attn:
        way = FLEX
    elif model._supports_attention_backend:
        way = GROUPED
    else:
        way = "sdpa"
    if way != "sdpa" or model._supports_sdpa:
        model.set_attn_implementation(way)  # only warns where the model's code does not let it
    if (taken := model.config._attn_implementation) != way:
        raise ModelError(f"{type(model).__name__}: expected attention by {way}, got {taken}")
    return way


@contextmanager
def plain_rows(model: Any) -> Iterator[None]:
    """Context in which a model with `install`'s attention uses transformers' own: plain rows with a padding mask."""
    way = model.config._attn_implementation
    if way == "sdpa":
        yield
        return
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(way)


def check(model: Any, file: Path) -> None:
    """Raise ModelError when `install` or `attention` would for this model, whose weights are on the meta device.

    Args:
        file: its config.json, for the message.
    """
    try:
        _try_out(model)
    except ModelError as error:
        raise ModelError(f"{file}: model_type: {model.config.model_type!r} can't be trained: {error}") from None


def _try_out(model: Any) -> None:
    install(model)
    tree = prefix_tree.build([[0]] * 2, [[1, 0], [2, 0]], [[1.0, 1.0]] * 2)
    token_ids = torch.from_numpy(tree.token_ids)[None].to("meta")
    depths = torch.from_numpy(tree.depths)[None].to("meta")
    try:
        with torch.no_grad():
            model(input_ids=token_ids, position_ids=depths, use_cache=False, **arguments(model, tree, "meta"))
    except ModelError:
        raise
    except Exception:  # code that asks for values, which there are none of: layers up to there have been checked
        return


def arguments(model: Any, tree: PrefixTree, device: torch.device | str) -> dict[str, Any]:
    """Arguments of `model`'s forward that describe a tree, by the way that it attends."""
    way = model.config._attn_implementation
    if way == GROUPED:
        return {"attention_mask": None, "tree": layout(tree, device)}
    if way == FLEX:
        return {"attention_mask": flex_mask(tree, device)}
    if way != "sdpa":  # others read a mask of bools in other ways
        raise ModelError(f"{type(model).__name__}: expected attention by sdpa, got {way}")
    return {"attention_mask": torch.from_numpy(tree.visible).to(device)[None, None]}
