"""Records that a run left in files of their own, one JSON object a file."""

from __future__ import annotations

import json
from pathlib import Path

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import Record, from_json


def read(file: Path, kind: type[Record]) -> Record:
    """The record of `kind` in `file`. Raises RunFolderError when it is missing or is not one."""
    if not file.is_file():
        raise RunFolderError(f"{file}: expected a file that an earlier stage wrote, got none")
    try:
        return from_json(kind, json.loads(file.read_bytes()))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunFolderError(f"{file}: expected JSON, got: {error}") from error
    except ValueError as error:
        raise RunFolderError(f"{file}: {error}") from error
