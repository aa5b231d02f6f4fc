"""Exact prefix sharing: the sequences of a micro-batch as one trie of token ids.

    the few-shot examples and the prompt ─┬─ Kigali is the capital. It lies in ─┬─ Africa.   chosen
                                          │                                     └─ Asia.     rejected
                                          └─ ...                                             next pair

Every shared prefix is computed once. The tree is one row of nodes in which a parent comes before its
children: a node's depth is its position id and it sees its ancestors and itself, nothing else. With
causal attention this is the same computation as one row per sequence, so log-probs and gradients are
equal up to rounding.

Two more exact savings live here, because the tree decides what is an input: nothing after a
sequence's last weighted token enters (no later token is a target), and the last target is no input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PrefixTree:
    """N nodes, and Q targets that are read off them."""

    token_ids: np.ndarray
    """[N] int64."""
    depths: np.ndarray
    """[N] int64: position ids."""
    visible: np.ndarray
    """[N, N] bool: row i marks the ancestors of node i, and i."""
    rows: np.ndarray
    """[Q] int64: the sequence that target q belongs to."""
    columns: np.ndarray
    """[Q] int64: index of target q within its sequence's response."""
    nodes: np.ndarray
    """[Q] int64: the node whose output predicts target q."""
    targets: np.ndarray
    """[Q] int64: token id of target q."""


def build(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> PrefixTree:
    """Merge sequences into one tree.

    Args:
        prompts: token ids before each response, at least one each.
        responses: token ids of each response.
        weights: one weight per response token; a token of weight 0 is no target.

    Raises:
        ValueError: when a prompt is empty or weights and response differ in length.
    """
    children: dict[tuple[int, int], int] = {}
    token_ids: list[int] = []
    parents: list[int] = []
    targets: list[tuple[int, int, int, int]] = []
    for row, (prompt, response, weight) in enumerate(zip(prompts, responses, weights, strict=True)):
        if len(prompt) == 0:
            raise ValueError(f"sequence {row}: expected a prompt of at least one token")
        if len(weight) != len(response):
            raise ValueError(f"sequence {row}: {len(response)} response tokens, {len(weight)} weights")
        last = max((i for i, w in enumerate(weight) if w), default=None)
        if last is None:
            continue
        node = -1
        for index, token in enumerate([*prompt, *response[:last]]):
            key = (node, int(token))
            if key not in children:
                children[key] = len(token_ids)
                token_ids.append(int(token))
                parents.append(node)
            node = children[key]
            column = index + 1 - len(prompt)
            if column >= 0 and weight[column]:
                targets.append((row, column, node, int(response[column])))
    visible, depths = _ancestry(parents)
    columns = np.asarray(targets, dtype=np.int64).reshape(-1, 4)
    return PrefixTree(
        token_ids=np.asarray(token_ids, dtype=np.int64),
        depths=depths,
        visible=visible,
        rows=columns[:, 0],
        columns=columns[:, 1],
        nodes=columns[:, 2],
        targets=columns[:, 3],
    )


def _ancestry(parents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    visible = np.zeros((len(parents), len(parents)), dtype=bool)
    depths = np.zeros(len(parents), dtype=np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] = visible[parent]
            depths[node] = depths[parent] + 1
        visible[node, node] = True
    return visible, depths
