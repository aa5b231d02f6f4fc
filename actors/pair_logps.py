"""Log-probs of single pairs, as they cross processes and lie on disk, and of a micro-batch, as the loss takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from maskdpo_ray.training.batches import TrainingExample
    from maskdpo_ray.training.reference import PairLogps


def pad(references: Sequence[PairLogps]) -> torch.Tensor:
    """Reference log-probs as [2B, T] float32, chosen rows first, right-padded with 0 to the longest response."""
    import torch

    rows = [chosen for chosen, _ in references] + [rejected for _, rejected in references]
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float32)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    return padded


def split(logps: np.ndarray, examples: Sequence[TrainingExample]) -> list[PairLogps]:
    """Rows of [2B, T] (chosen first) back to pairs, without padding."""
    half = len(examples)
    return [
        (
            logps[index, : len(example.chosen_token_ids)].copy(),
            logps[half + index, : len(example.rejected_token_ids)].copy(),
        )
        for index, example in enumerate(examples)
    ]
