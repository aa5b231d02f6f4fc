"""Reference log-probs on disk, beside the pairs that they belong to.

The file says whose they are: the reference policy's checksum, and a digest of the token ids and of which of them have
weight. So they serve every epoch and every start of a run, and no other model's or pairs' are ever taken for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from maskdpo_ray import whole_file
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.errors import RunFolderError, one_line, shown
from maskdpo_ray.stages import ReferenceLogps


def save(file: Path, examples: Sequence[TrainingExample], logps: ReferenceLogps, checksum: str) -> None:
    """Write one safetensors file: `<pair id>/chosen` and `<pair id>/rejected`, each [length] float32.

    `checksum` is the reference policy's. Raises RunFolderError when the file can't be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for example, (chosen, rejected) in zip(examples, logps, strict=True):
        tensors[f"{example.pair_id}/chosen"] = np.ascontiguousarray(chosen, dtype=np.float32)
        tensors[f"{example.pair_id}/rejected"] = np.ascontiguousarray(rejected, dtype=np.float32)
    # One entry: safetensors writes several in any order, and a run's files are to be the same each time.
    metadata = {"of": f"{checksum} {_digest(examples)}"}
    whole_file.write(file, safetensors.numpy.save(tensors, metadata))


def load(file: Path, examples: Sequence[TrainingExample], checksum: str) -> ReferenceLogps:
    """Read what `save` wrote, in the order of `examples`.

    Raises RunFolderError when the file is damaged, a pair is missing, its length is not its answer's, or the log-probs
    are another policy's or of other tokens.
    """
    logps: ReferenceLogps = []
    try:
        with safe_open(file, "np") as tensors:
            names, metadata = set(tensors.keys()), tensors.metadata() or {}
            for example in examples:
                lengths = (len(example.chosen_token_ids), len(example.rejected_token_ids))
                keys = [f"{example.pair_id}/{side}" for side in ("chosen", "rejected")]
                sides = [tensors.get_tensor(key) for key in keys if key in names]
                if tuple(side.shape for side in sides) != tuple((length,) for length in lengths):
                    raise RunFolderError(
                        f"{file}: expected log-probs of pair {example.pair_id!r} with lengths {lengths}"
                    )
                logps.append((sides[0], sides[1]))
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{file}: expected log-probs in safetensors, got: {one_line(error)}") from error
    policy, _, tokens = metadata.get("of", "").partition(" ")
    for what, expected, got in (("policy", checksum, policy), ("tokens", _digest(examples), tokens)):
        if got != expected:
            raise RunFolderError(f"{file}: {what}: expected log-probs of {shown(expected)}, got those of {shown(got)}")
    return logps


def _digest(examples: Sequence[TrainingExample]) -> str:
    """SHA-256 over the pairs' tokens, and which of them have weight; their order doesn't matter."""
    digests = []
    for example in examples:
        digest = hashlib.sha256(example.pair_id.encode())
        for token_ids in (example.prompt_token_ids, example.chosen_token_ids, example.rejected_token_ids):
            digest.update(repr(len(token_ids)).encode() + np.asarray(token_ids, np.int64).tobytes())
        for weights in (example.chosen_weights, example.rejected_weights):
            digest.update((np.asarray(weights) != 0).tobytes())
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
