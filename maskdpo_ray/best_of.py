"""Best of N: how well an answer does that is the best of N, as a selector with the same score would pick it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import comb


def best_of_n(scores: Sequence[float], n: int) -> float:
    """The expected highest of `n` scores, estimated without bias from K >= n independent ones.

    It is the mean, over all subsets of n of the K scores, of the highest one. In ascending order the i-th score is the
    highest of C(i - 1, n - 1) subsets out of C(K, n). For scores of 0 and 1 this is pass@k (Chen et al. 2021,
    https://arxiv.org/abs/2107.03374). Raises ValueError unless 1 <= n <= K.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"expected n from 1 to {len(scores)}, got {n}")
    ranked = enumerate(sorted(scores), start=1)
    return sum(score * comb(i - 1, n - 1) for i, score in ranked) / comb(len(scores), n)


def sizes(samples: int) -> list[int]:
    """1, 2, 4 ... and `samples` itself."""
    powers = [2**i for i in range(samples.bit_length())]
    return [*(n for n in powers if n < samples), samples]


def mean_best(scores: Collection[Sequence[float]], samples: int) -> dict[str, float | None]:
    """N as text -> mean of `best_of_n` over the questions that have N scores; None where no question has.

    `scores` holds those of one question each, of at most `samples` answers.
    """
    found: dict[str, float | None] = {}
    for n in sizes(samples):
        bests = [best_of_n(each, n) for each in scores if len(each) >= n]
        found[str(n)] = sum(bests) / len(bests) if bests else None
    return found
