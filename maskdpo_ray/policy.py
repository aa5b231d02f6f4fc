"""A published policy: what engines load and rollouts are stamped with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    version: int
    """0 is the initial policy, i + 1 the policy after iteration i."""
    path: str
    """A Hugging Face folder: safetensors, config, tokenizer."""
    checksum: str
    """sha256 of its safetensors (`actors.weights.checksum`)."""
