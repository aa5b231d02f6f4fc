"""A user's documents: a JSON Lines file of texts that all questions share."""

from __future__ import annotations

import json
from pathlib import Path

from maskdpo_ray.errors import DataError, shown


def read(path: Path) -> list[str]:
    """The texts, each with its title in front: one {"text": ..., "title": ...} a line, the title optional.

    Raises DataError, one line, that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are no UTF-8"
        raise DataError(f"{path}: expected a JSON Lines file of documents, got: {reason}") from None
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: expected JSON, got: {error}") from None
        if not isinstance(value, dict) or not value.keys() <= {"text", "title"}:
            raise DataError(
                f"{path}:{number}: expected an object with text and, if you like, title; got {shown(value)}"
            )
        text, title = value.get("text"), value.get("title", "")
        for name, field in (("text", text), ("title", title)):
            if not isinstance(field, str) or (name == "text" and not field.strip()):
                raise DataError(f"{path}:{number}: {name}: expected text, got {shown(field)}")
        texts.append(f"{title}\n{text}" if title else text)
    if not texts:
        raise DataError(f"{path}: expected a document a line, got an empty file")
    return texts
