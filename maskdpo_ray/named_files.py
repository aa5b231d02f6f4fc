"""Files and model folders that options name: prompts and labels depend on their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import ConfigError


def checksums(config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted option -> SHA-256 of what it names; options that name neither file nor model folder are left out.

    Args:
        config: resolved, as nested dicts.

    Raises ConfigError when a file can't be read.
    """
    annotation, evaluation = config.get("annotation", {}), config.get("eval", {})
    named = {
        "model.chat_template": config.get("model", {}).get("chat_template"),
        "annotation.options": annotation.get("options"),
        "eval.options": evaluation.get("options"),
        "eval.perplexity_model": evaluation.get("perplexity_model"),
    }
    return {name: _checksum(name, path) for option, value in named.items() for name, path in _paths(option, value)}


def changed(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str | None:
    """The first option whose file is another one than before; None too when that is not known, of earlier versions."""
    if before is None:
        return None
    return next((name for name in [*now, *before] if before.get(name) != now.get(name)), None)


def _paths(name: str, value: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _paths(f"{name}[{number}]", item)
    elif isinstance(value, str):
        for file in (value, os.path.join(value, "config.json")):
            if os.path.isfile(file):  # as Path.is_file raises for names that are too long
                yield name, Path(file)
                return


def _checksum(name: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
        if file.name == "config.json":  # weights by their sizes: to read them takes minutes
            for weights in sorted(file.parent.glob("*.safetensors")):
                digest.update(f"{weights.name} {weights.stat().st_size}\n".encode())
    except OSError as error:
        raise ConfigError(f"{name}: expected a file that can be read, got {str(file)!r}: {error.strerror}") from None
    return digest.hexdigest()
