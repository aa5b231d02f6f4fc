"""A model's folder that is a model and no more: nothing in it brings another model, code or endless work along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import ModelError, shown
from maskdpo_ray.models import other_folders

_ATTENTION = ("eager", "sdpa")
_EXPERTS = ("eager", "batched_mm", "grouped_mm")
"""What transformers computes itself; any other name may be a repository whose compiled code it fetches and runs."""
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_MOST_LAYERS = 1000


def check(folder: Path, config: dict[str, Any]) -> None:
    """Raise ModelError when `folder`, with what its config.json holds, is more than a model."""
    if adapter := other_folders.adapter(folder):  # transformers would load its base model instead
        raise ModelError(f"{folder / 'adapter_config.json'}: expected a whole model, got {adapter}")
    allowed = {"attn_implementation": _ATTENTION, "experts_implementation": _EXPERTS}
    for name, value in _fields(config):
        if name in allowed and value not in (None, *allowed[name]):
            expected = f"expected one of {', '.join(allowed[name])}"
            raise ModelError(f"{folder / 'config.json'}: {name}: {expected}, got {shown(value)}")
        if name in _LAYERS and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(f"{folder / 'config.json'}: {name}: expected at most {_MOST_LAYERS}, got {shown(value)}")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of every field of JSON values, also of those within others: a config may hold more configs."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from each.items()
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
