"""Lines of metrics.jsonl, as `tracking` writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import RunFolderError, shown


def read(file: Path) -> Iterator[dict[str, Any]]:
    """Each whole line: "time" (seconds), "step", and finite numbers or None by name; none of a missing file.

    A last line without its end is torn, or being written: it is left out. Raises RunFolderError naming file and line.
    """
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            yield _record(line, f"{file}, line {number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{where}: expected JSON, got {line.strip()[:60]!r}") from error
    if not isinstance(record, dict) or type(record.get("step")) is not int or record.get("time") is None:
        raise RunFolderError(f"{where}: expected an object with time and step, got {line.strip()[:60]!r}")
    for name, value in record.items():
        try:
            is_number = value is None or math.isfinite(value)
        except (TypeError, OverflowError):  # an int that no float can hold
            is_number = False
        if not is_number:
            raise RunFolderError(f"{where}: {name}: expected a number, got {shown(value)}")
    return record
