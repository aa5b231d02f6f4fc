"""A user's documents: a JSON Lines file of texts that all questions share."""

from __future__ import annotations

from pathlib import Path

from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.questions import json_lines


def read(path: Path) -> list[str]:
    """The texts, each with its title in front: one {"text": ..., "title": ...} a line, the title optional.

    Raises DataError, one line, that names the line.
    """
    texts = []
    for number, value in json_lines(path):
        where = f"{path}:{number}"
        if not isinstance(value, dict) or not value.keys() <= {"text", "title"}:
            raise DataError(f"{where}: expected an object with text and, if you like, title; got {shown(value)}")
        for name, field in (("text", value.get("text")), ("title", value.get("title", "none"))):
            if not isinstance(field, str) or not field.strip():
                raise DataError(f"{where}: {name}: expected text that is not empty, got {shown(field)}")
        texts.append("\n".join(value[name] for name in ("title", "text") if name in value))
    if not texts:
        raise DataError(f"{path}: expected a document a line, got an empty file")
    return texts
