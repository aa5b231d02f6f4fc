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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from maskdpo_ray.errors import ModelError, one_line
from maskdpo_ray.training import prefix_tree
from maskdpo_ray.training.prefix_tree import SHARED, PrefixTree

GROUPED, FLEX = "maskdpo_grouped", "flex_attention"
FULL, SLIDING = "full_attention", "sliding_attention"
"""transformers' names of kinds of layers."""
_CHANGES = ("position_bias", "block_indices", "indices")
"""Arguments of transformers' attention that change it in ways which `attention` does not compute."""


class NoTree(ModelError):
    """A model can't attend over a tree; padded rows may serve it."""


class Asked(NamedTuple):
    """Attention that a layer asks for."""

    window: int | None
    is_eager: bool
    """Whether scores are capped or have sinks, which transformers' SDPA leaves out without a word."""


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
    trunk_depths: torch.Tensor
    """[T] int64."""
    own_depths: torch.Tensor
    """[G, L] int64; 0 of what pads."""
    asked: list[Asked] = field(default_factory=list)
    """Attention of each layer that has seen this tree, while a model is looked at (on the meta device)."""

    def within(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(trunk_mask, own_mask) of layers that see the last `window` tokens, their own among them; None: all."""
        if window is None:
            return self.trunk_mask, self.own_mask
        trunk, own = self.trunk_depths, self.own_depths
        keys = torch.cat([trunk.expand(len(own), -1), own], dim=1)
        near = (own[:, :, None] - keys[:, None, :] < window)[:, None]
        return self.trunk_mask & (trunk[:, None] - trunk < window), self.own_mask & near


def layout(tree: PrefixTree, device: torch.device | str) -> Layout:
    """The cut of a tree into trunk and owners, on `device`."""
    trunk = np.flatnonzero(tree.owners == SHARED)
    owned = [np.flatnonzero(tree.owners == owner) for owner in np.unique(tree.owners[tree.owners != SHARED])]
    longest = max(map(len, owned), default=0)
    own = np.zeros((len(owned), longest), dtype=np.int64)
    own_mask = np.zeros((len(owned), longest, len(trunk) + longest), dtype=bool)
    own_depths = np.zeros_like(own)
    order = np.zeros(len(tree.token_ids), dtype=np.int64)
    order[trunk] = np.arange(len(trunk))
    for row, nodes in enumerate(owned):
        size = len(nodes)
        own[row, :size] = nodes
        own_depths[row, :size] = tree.depths[nodes]
        own_mask[row, :size, : len(trunk)] = tree.sees(nodes[:, None], trunk[None, :])
        own_mask[row, :size, len(trunk) : len(trunk) + size] = tree.sees(nodes[:, None], nodes[None, :])
        padding = np.arange(size, longest)
        own_mask[row, padding, len(trunk) + padding] = True
        order[nodes] = len(trunk) + row * longest + np.arange(size)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    trunk_mask = tree.sees(trunk[:, None], trunk[None, :])[None, None]
    return Layout(
        tensor(trunk),
        tensor(own.reshape(-1)),
        tensor(trunk_mask),
        tensor(own_mask[:, None]),
        tensor(order),
        tensor(tree.depths[trunk]),
        tensor(own_depths),
    )


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one row of nodes, as transformers' attention interface wants it.

    Args:
        query: [1, H, N, D].
        key: [1, K, N, D]; H is a multiple of K.
        value: [1, K, N, E]; E is D in most models.
        attention_mask: None: the tree says all.
        tree: of these N nodes; None: of one node.
        sliding_window: tokens that one sees, itself among them.
        softcap: highest score, which others approach as tanh does.
        s_aux: [H], sinks: a score for each head that takes weight from the keys.

    Returns:
        ([1, N, H, E], None).

    Raises NoTree for attention of other kinds, and when the model has not handed on the tree; ModelError for attention
    to later tokens.
    """
    _refuse_others(module, query.shape[2], attention_mask, tree, others)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is not None and query.device.type == "meta":
        tree.asked.append(Asked(sliding_window, softcap is not None or s_aux is not None))
    scores = _Scores(scaling, softcap, s_aux)
    if tree is None:
        heads_of = [query.unflatten(1, (key.shape[1], -1)), key[:, :, None], value[:, :, None]]
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=query.device)
        return _attend(*heads_of, mask, dropout, scores).view(len(query), 1, -1, value.shape[-1]), None
    num_keys, num_trunk, num_owners, longest = key.shape[1], len(tree.trunk), *tree.own_mask.shape[:3:2]
    rows = [each[0].transpose(0, 1).flatten(1) for each in (query, key, value)]  # [N, heads * (D or E)]
    shapes = [(num_keys, each.shape[1] // num_keys, each.shape[3]) for each in (query, key, value)]

    def heads(nodes: torch.Tensor, count: int, length: int) -> list[torch.Tensor]:
        """[count, K, R, length, D] queries, and [count, K, 1, length, D or E] keys and values, of these nodes."""
        picked = [
            each.index_select(0, nodes).view(count, length, *shape) for each, shape in zip(rows, shapes, strict=True)
        ]
        return [each.permute(0, 2, 3, 1, 4) for each in picked]

    trunk_mask, own_mask = tree.within(sliding_window)
    outputs, trunk = [], heads(tree.trunk, 1, num_trunk)
    if num_trunk:
        outputs.append(_attend(*trunk, trunk_mask, dropout, scores))
    if num_owners:
        queries, *own = heads(tree.own, num_owners, longest)
        shared = [each.expand(num_owners, -1, -1, -1, -1) for each in trunk[1:]]
        keys, values = (torch.cat(pair, dim=3) for pair in zip(shared, own, strict=True))
        outputs.append(_attend(queries, keys, values, own_mask, dropout, scores))
    output = torch.cat(outputs).index_select(0, tree.order)
    return output.view(1, len(tree.order), -1, value.shape[-1]), None


def _refuse_others(
    module: torch.nn.Module, size: int, mask: torch.Tensor | None, tree: Layout | None, others: dict[str, Any]
) -> None:
    """Raise NoTree when a model asks `attention` for what it does not compute, ModelError when it is not causal."""
    is_causal, kind = others.get("is_causal"), type(module).__name__
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ModelError(f"{kind}: expected attention to tokens before alone, got is_causal=False")
    found = [name for name in _CHANGES if others.get(name) is not None]
    if mask is not None:
        found.append("a mask of its own")
    if found:
        raise NoTree(f"{kind} has attention with {found[0]}, which a tree lacks")
    if tree is None and size > 1:
        raise NoTree(f"{kind} is not told of the tree by the model's layers")


@dataclass(frozen=True)
class _Scores:
    """How scores follow from queries and keys, and weights from scores."""

    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None
    """[H]."""

    @property
    def are_plain(self) -> bool:
        return self.softcap is None and self.sinks is None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, dropout: float, scores: _Scores
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
    if not scores.are_plain:
        output = F.dropout(_weights(query, key, mask, scores), dropout) @ value
    elif dropout or query.device.type != "cpu":
        mask = mask.repeat(1, 1, repeats, 1)
        output = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scores.scaling)
    else:
        output = _Attention.apply(query, key, value, mask, scores.scaling)
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


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, scores: _Scores) -> torch.Tensor:
    """Attention weights [count, K, R * L, S] of capped scores (arXiv 2408.00118, section 2) and with sinks (arXiv
    2309.17453, eq. 2), in float32 as transformers has them.
    """
    found = (query @ key.mT).float() * scores.scaling
    if scores.softcap is not None:
        found = scores.softcap * torch.tanh(found / scores.softcap)
    repeats = found.shape[2] // mask.shape[2]
    found = found.masked_fill(~mask.repeat(1, 1, repeats, 1), -torch.inf)
    if scores.sinks is None:
        return found.softmax(-1).to(query.dtype)
    sinks = scores.sinks.float().view(1, found.shape[1], repeats, 1, 1)
    sinks = sinks.expand(len(found), -1, -1, mask.shape[2], -1).flatten(2, 3)
    return torch.cat([found, sinks], dim=-1).softmax(-1)[..., :-1].to(query.dtype)


def _shares(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention weights [count, K, R * L, S]; each row of the mask marks a key at least."""
    scores = (query @ key.mT).mul_(scaling)
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill_(~mask, -torch.inf)
    scores.unflatten(2, (-1, mask.shape[2])).add_(bias[:, :, None])
    return scores.softmax(-1)


def flex_mask(tree: PrefixTree, device: torch.device | str, window: int | None = None) -> Any:
    """FlexAttention's BlockMask of a tree; three numbers for each node say all. `window`: as in `Layout.within`."""
    from torch.nn.attention.flex_attention import create_block_mask

    ends, depths = (torch.from_numpy(each).to(device) for each in (tree.ends, tree.depths))

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        is_before = (key <= query) & (query < ends[key])
        return is_before if window is None else is_before & (depths[query] - depths[key] < window)

    size = len(tree.token_ids)
    return create_block_mask(sees, None, None, size, size, device=device)


def install(model: Any) -> str:
    """Have a Hugging Face model attend in the fastest exact way that it supports; returns the way's name.

    On CUDA FlexAttention, on CPU `attention`; transformers' SDPA with an N x N mask for models without transformers'
    attention interface. Raises NoTree for a model that takes none of these: "eager" attention would add a mask of bools
    to its scores.
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
        raise NoTree(f"{type(model).__name__} has {taken} attention only")
    return way


@contextmanager
def plain_rows(model: Any, way: str) -> Iterator[None]:
    """Context in which a model attends as transformers does, `way` being one of `row_ways`."""
    before = model.config._attn_implementation
    use_rows(model, way)
    try:
        yield
    finally:
        use_rows(model, before)


def use_rows(model: Any, way: str) -> None:
    """Have a model attend as transformers does, `way` being one of `row_ways`."""
    if model.config._attn_implementation != way:
        model.set_attn_implementation(way)


def row_ways(model: Any) -> list[str]:
    """transformers' own attention implementations that a model can have for padded rows, the fastest first.

    The last one computes all that a model asks of its attention: others may leave out what they don't know.
    """
    if not model._can_set_attn_implementation():
        return [model.config._attn_implementation]
    return [*(["sdpa"] if model._supports_sdpa else []), "eager"]


def look(model: Any) -> tuple[str | None, list[Asked]]:
    """(why a model, whose weights are on the meta device, can't attend over a tree, or None where nothing tells; the
    attention that its layers ask for, as far as they were reached).

    Raises ModelError for a model that is not causal.
    """
    asked: list[Asked] = []
    tree = prefix_tree.build([[0]] * 2, [[1, 0], [2, 0]], [[1.0, 1.0]] * 2)
    token_ids = torch.from_numpy(tree.token_ids)[None].to("meta")
    depths = torch.from_numpy(tree.depths)[None].to("meta")
    try:
        install(model)
        if model._can_set_experts_implementation():  # others ask for values: how many tokens an expert gets
            model.set_experts_implementation("batched_mm")
        options = arguments(model, tree, "meta")
        if "tree" in options:
            asked = options["tree"].asked
        with torch.no_grad():
            model(input_ids=token_ids, position_ids=depths, use_cache=False, **options)
    except NoTree as error:
        return str(error), asked
    except ModelError:
        raise
    except TypeError as error:  # arguments that the model does not take
        return f"{type(model).__name__}: {one_line(error)}", asked
    except Exception:  # code that asks for values, which there are none of: layers up to there have been checked
        return None, asked
    return None, asked


def arguments(model: Any, tree: PrefixTree, device: torch.device | str) -> dict[str, Any]:
    """Arguments of `model`'s forward that describe a tree, by the way that it attends."""
    way = model.config._attn_implementation
    if way == GROUPED:
        return {"attention_mask": None, "tree": layout(tree, device)}
    if way == FLEX:
        return {"attention_mask": _flex_masks(model.config.get_text_config(), tree, device)}
    if way != "sdpa":  # others read a mask of bools in other ways
        raise NoTree(f"{type(model).__name__} has {way} attention, which reads a mask of bools in another way")
    return {"attention_mask": torch.from_numpy(tree.visible).to(device)[None, None]}


def _flex_masks(config: Any, tree: PrefixTree, device: torch.device | str) -> Any:
    """FlexAttention's mask of all layers, or {type of layers: mask} as transformers has it where these differ."""
    types = set(layer_types(config))
    if not types <= {FULL, SLIDING} or SLIDING not in types:
        return flex_mask(tree, device)
    sliding = flex_mask(tree, device, window(config))
    if getattr(config, "layer_types", None) is None:
        return sliding
    return {FULL: flex_mask(tree, device), SLIDING: sliding}


def layer_types(config: Any) -> list[str]:
    """Kind of attention of each layer, as transformers names them."""
    found: list[str] | None = getattr(config, "layer_types", None)
    if found is not None:
        return found
    return [FULL if window(config) is None else SLIDING] * getattr(config, "num_hidden_layers", 1)


def window(config: Any) -> int | None:
    """Tokens that a token sees in layers with a window, itself among them; None: all."""
    found = getattr(config, "sliding_window", None)
    return found if found and getattr(config, "use_sliding_window", True) else None
