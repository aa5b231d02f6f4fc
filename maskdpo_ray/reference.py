"""Reference log-probs on disk, beside the pairs that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from safetensors.numpy import load_file

from maskdpo_ray import whole_file
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.errors import RunFolderError, one_line
from maskdpo_ray.stages import ReferenceLogps


def save(file: Path, examples: Sequence[TrainingExample], logps: ReferenceLogps) -> None:
    """Write one safetensors file: `<pair id>/chosen` and `<pair id>/rejected`, each [length] float32.

    Raises RunFolderError when it can't be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for example, (chosen, rejected) in zip(examples, logps, strict=True):
        tensors[f"{example.pair_id}/chosen"] = np.ascontiguousarray(chosen, dtype=np.float32)
        tensors[f"{example.pair_id}/rejected"] = np.ascontiguousarray(rejected, dtype=np.float32)
    whole_file.write(file, safetensors.numpy.save(tensors))


def load(file: Path, examples: Sequence[TrainingExample]) -> ReferenceLogps:
    """Read what `save` wrote, in the order of `examples`.

    Raises RunFolderError when the file is damaged, a pair is missing or its length is not its answer's.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{file}: expected log-probs in safetensors, got: {one_line(error)}") from error
    logps: ReferenceLogps = []
    for example in examples:
        sides = (tensors.get(f"{example.pair_id}/chosen"), tensors.get(f"{example.pair_id}/rejected"))
        lengths = (len(example.chosen_token_ids), len(example.rejected_token_ids))
        if any(side is None or len(side) != length for side, length in zip(sides, lengths, strict=True)):
            raise RunFolderError(f"{file}: expected log-probs of pair {example.pair_id!r} with lengths {lengths}")
        logps.append(sides)
    return logps
