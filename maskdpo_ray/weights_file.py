"""A safetensors file: its header names the tensors, and tells whether the file is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maskdpo_ray.errors import ModelError, one_line


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The file, of which the header alone is read.

    Raises ModelError, one line, when that can't be read or does not fit the file's size, as of a truncated file.
    """
    try:
        with safe_open(file, framework="np") as weights:
            yield weights
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: expected a whole safetensors file (no Git LFS pointer), got: {one_line(error)}"
        ) from None
