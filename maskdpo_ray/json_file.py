"""Records that a run left in files of their own, one JSON object a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import Record, from_json


def read(file: Path, kind: type[Record]) -> Record:
    """The record of `kind` in `file`. Raises RunFolderError when it is missing or is not one."""
    try:
        return from_json(kind, load(file))
    except ValueError as error:
        raise RunFolderError(f"{file}: {error}") from error


def load(file: Path) -> Any:
    """The JSON value in `file`. Raises RunFolderError when it is missing or is none."""
    if not os.path.isfile(file):
        raise RunFolderError(f"{file}: expected a file that an earlier stage wrote, got none")
    try:
        return json.loads(file.read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{file}: expected JSON, got: {error}") from error
    except OSError as error:
        raise RunFolderError(f"{file}: can't be read: {error.strerror}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")
