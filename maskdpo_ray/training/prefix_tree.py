"""Exact prefix sharing: the sequences of a micro-batch as one trie of token ids.

    the few-shot examples and the prompt ─┬─ Kigali is the capital. It lies in ─┬─ Africa.   chosen
                                          │                                     └─ Asia.     rejected
                                          └─ ...                                             next pair

Every shared prefix is computed once. The tree is one row of nodes in preorder: a node stands before all that
continues it, and these follow without a gap. Its depth is its position id, and it sees its ancestors and itself,
nothing else. With causal attention this is the same computation as one row per sequence, so log-probs and gradients
are equal up to rounding.

Two more exact savings live here, because the tree decides what is an input: nothing after a sequence's last weighted
token enters (no later token is a target), and the last target is no input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARED = -1
"""Owner of a node that sequences of several owners pass through."""


@dataclass(frozen=True)
class PrefixTree:
    """N nodes, and Q targets that are read off them."""

    token_ids: np.ndarray
    """[N] int64."""
    depths: np.ndarray
    """[N] int64: position ids."""
    ends: np.ndarray
    """[N] int64: node i and all that continues it are the nodes i .. ends[i]-1."""
    owners: np.ndarray
    """[N] int64: to whom all sequences through the node belong, or SHARED."""
    rows: np.ndarray
    """[Q] int64: the sequence that target q belongs to."""
    columns: np.ndarray
    """[Q] int64: index of target q within its sequence's response."""
    nodes: np.ndarray
    """[Q] int64: the node whose output predicts target q."""
    targets: np.ndarray
    """[Q] int64: token id of target q."""

    def sees(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Whether each of the nodes `queries` sees each of the nodes `keys`: int64 of any shapes that broadcast."""
        return (keys <= queries) & (queries < self.ends[keys])

    @property
    def visible(self) -> np.ndarray:
        """[N, N] bool: row i marks the ancestors of node i, and i."""
        every = np.arange(len(self.token_ids))
        return self.sees(every[:, None], every[None, :])


def build(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
    owners: Sequence[int] | None = None,
    cut_tails: bool = True,
) -> PrefixTree:
    """Merge sequences into one tree.

    Args:
        prompts: token ids before each response, at least one each.
        responses: token ids of each response.
        weights: one weight per response token; a token of weight 0 is no target.
        owners: to whom each sequence belongs, at least 0; by default each is its own.
        cut_tails: leave out what comes after the last target, and that; else all tokens enter.

    Raises:
        ValueError: when a prompt is empty or weights and response differ in length.
    """
    inputs = [
        _inputs(row, *sequence, cut_tails) for row, sequence in enumerate(zip(prompts, responses, weights, strict=True))
    ]
    size = sum(map(len, inputs))
    token_ids, depths, ends = (np.zeros(size, dtype=np.int64) for _ in range(3))
    owner_of = np.full(size, SHARED, dtype=np.int64)
    count, before, path = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    targets: list[np.ndarray] = []
    # In order of their token ids, a sequence shares with the tree what it shares with the one before it.
    for row in sorted((row for row, ids in enumerate(inputs) if len(ids)), key=lambda row: tuple(inputs[row])):
        ids, owner = inputs[row], row if owners is None else owners[row]
        shared = common_length(before, ids)
        new = np.arange(count, count + len(ids) - shared)
        count += len(new)
        path, before = np.concatenate([path[:shared], new]), ids
        token_ids[new], depths[new], owner_of[new] = ids[shared:], np.arange(shared, len(ids)), owner
        owner_of[path[:shared][owner_of[path[:shared]] != owner]] = SHARED
        ends[path] = count
        columns = np.flatnonzero(np.asarray(weights[row]))
        predicting = path[columns + len(prompts[row]) - 1]
        answered = np.asarray(responses[row], dtype=np.int64)[columns]
        targets.append(np.stack([np.full(len(columns), row), columns, predicting, answered]))
    found = np.concatenate(targets, axis=1) if targets else np.zeros((4, 0), dtype=np.int64)
    rows, columns, nodes, ids = found[:, np.lexsort((found[1], found[0]))]
    return PrefixTree(token_ids[:count], depths[:count], ends[:count], owner_of[:count], rows, columns, nodes, ids)


def _inputs(
    row: int, prompt: Sequence[int], response: Sequence[int], weights: Sequence[float], cut_tails: bool
) -> np.ndarray:
    """The tokens of a sequence that enter; none when it has no target."""
    if len(prompt) == 0:
        raise ValueError(f"sequence {row}: expected a prompt of at least one token")
    if len(weights) != len(response):
        raise ValueError(f"sequence {row}: {len(response)} response tokens, {len(weights)} weights")
    ids = np.asarray([*prompt, *response], dtype=np.int64)
    if not cut_tails:
        return ids
    weighted = np.flatnonzero(np.asarray(weights))
    return ids[: len(prompt) + weighted[-1]] if len(weighted) else ids[:0]


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the longest common prefix of two sequences, tokens."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
