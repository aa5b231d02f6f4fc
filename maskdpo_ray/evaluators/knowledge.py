"""A user's documents: a JSON Lines file of texts that all questions share."""

from __future__ import annotations

from pathlib import Path

from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError, shown


def read(path: Path) -> list[str]:
    """The texts, each with its title in front: one {"text": ..., "title": ...} a line, the title optional.

    Raises DataError, one line, that names the line.
    """
    texts = []
    for where, value in objects(path):
        if not value.keys() <= {"text", "title"}:
            raise DataError(f"{where}: expected an object with text and, if you like, title; got {shown(value)}")
        for name, field in (("text", value.get("text")), ("title", value.get("title", "none"))):
            if not isinstance(field, str) or not field.strip():
                raise DataError(f"{where}: {name}: expected text that is not empty, got {shown(field)}")
        texts.append("\n".join(value[name] for name in ("title", "text") if name in value))
    return texts
