"""A file that is there whole, the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import os
from pathlib import Path

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.ledger import sync_folder


def write(target: Path, data: bytes) -> None:
    """Write or replace `target`, its folder made when missing. Raises RunFolderError when that can't be."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(f"{target}: can't be written: {error.strerror}") from error
