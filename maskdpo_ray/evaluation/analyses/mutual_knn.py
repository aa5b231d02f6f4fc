"""Alignment of two models' representations: the mutual k-nearest-neighbour metric of Huh et al. 2024
(arXiv:2405.07987), as in SMA, appendix E.

SMA finds that a policy is closer to a stronger model after DPO than before (its figure 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.analyses.embedder import Vectors, unit
from maskdpo_ray.evaluation.intervals import Change, Ratios, TopicSums
from maskdpo_ray.records import Question, Record

_RATIOS = Ratios(("overlap", "prompts"), {"alignment": ("overlap", "prompts")})


class SplitAlignment(Record):
    """Alignment of the policy with the other model on the prompts of a split."""

    prompts: int
    topics: int
    by_chance: float
    """Alignment of two models that have nothing to do with each other: k / (prompts - 1)."""
    alignment: Change
    """Before and after training, with the interval of the change over topics, neighbours being what they are."""


class MutualKnn(Record):
    """Alignment before and after training."""

    run: str
    after: int
    """Version of the trained policy."""
    reference: str
    """The other model."""
    k: int
    bootstrap_samples: int
    splits: dict[str, SplitAlignment]


def text_of(question: Question) -> str:
    """The text whose representation is compared: the last message, as plain text, which every model can take."""
    return str(question.prompt[-1]["content"])


def overlaps(features: Vectors, others: Vectors, k: int) -> NDArray[np.float64]:
    """m_NN of each prompt [prompts] (SMA eq. 7): share of its k nearest neighbours by the one model that are among
    those by the other.

    Raises DataError unless there are more than k + 1 prompts: with fewer all are neighbours of all.
    """
    if len(features) <= k + 1:
        raise DataError(f"k: expected fewer than the other prompts, {len(features) - 1}, got {k}")
    one, other = _neighbours(features, k), _neighbours(others, k)
    return (one & other).sum(axis=1) / k


def _neighbours(features: Vectors, k: int) -> NDArray[np.bool_]:
    """S(phi_i) of SMA eq. 5 as a mask [prompts, prompts]: the k others of the largest cosine."""
    normalized = unit(features)
    cosines = normalized @ normalized.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    mask = np.zeros(cosines.shape, dtype=bool)
    np.put_along_axis(mask, nearest, True, axis=1)
    return mask


def align(
    questions: Sequence[Question], features: Mapping[str, Vectors], k: int, *, seed: int, bootstrap_samples: int
) -> SplitAlignment:
    """Alignment before and after; `features` are those of "before", "after" and "reference". Raises DataError."""
    sides = [_sums(questions, overlaps(features[name], features["reference"], k)) for name in ("before", "after")]
    changes = _RATIOS.changes(*sides, seed=seed, bootstrap_samples=bootstrap_samples)
    return SplitAlignment(len(questions), len(sides[0]), k / (len(questions) - 1), changes["alignment"])


def _sums(questions: Sequence[Question], found: NDArray[np.float64]) -> TopicSums:
    return _RATIOS.add_up(
        (question.topic, {"overlap": float(overlap), "prompts": 1.0})
        for question, overlap in zip(questions, found, strict=True)
    )
