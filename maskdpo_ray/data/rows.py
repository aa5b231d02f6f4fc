"""Rows of a file as a config means them: columns under our names, widely used layouts in our fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from maskdpo_ray.data import formats
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats import layouts
from maskdpo_ray.data.formats.preference import Preference
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import RecordError, shown

Columns = Mapping[str, str]
"""Our field -> the column that holds it; `answers.text.0` is the first text within a struct `answers`."""


def rows(path: Path, dropped: Dropped | None = None, columns: Columns | None = None) -> Iterator[tuple[str, Any]]:
    """("file:line", row) as by `objects`; a row that stands for several records comes as these.

    Unusable ones go to `dropped`. Raises DataError.
    """
    dropped = dropped or Dropped(path)

    def made(found: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        where, item = found
        records = layouts.rewritten(_renamed(item, columns or {}, where), where)
        if len(records) == 1:
            return [(where, records[0])]
        return [(f"{where}:{number}", each) for number, each in enumerate(records)]

    return chain.from_iterable(dropped.sift(objects(path, dropped), made))


def preferences(path: Path, dropped: Dropped | None = None) -> Iterator[tuple[str, Preference]]:
    """("file:line", preference) of a file in any of the formats, in its order; one at a time is in memory.

    Raises DataError.
    """
    dropped = dropped or Dropped(path)
    return dropped.sift(rows(path, dropped), lambda found: (found[0], formats.preference(found[1], found[0])))


def _renamed(item: dict[str, Any], columns: Columns, where: str) -> dict[str, Any]:
    """The item with the columns' values under our names. Raises RecordError where a column is missing.

    A null, which tables have in place of a value, is one that is missing without being refused.
    """
    found = dict(item)
    for field, column in columns.items():
        value = _value(item, column)
        if value is None and field in _NEEDED:
            have = ", ".join(item) or "none"
            expected = f"expected the column {column!r} (data.columns.{field}), got {shown(have)}"
            raise RecordError(f"{where}: {field}: {expected}", Reason.INVALID_FIELD)
        found.pop(column, None)
        if value is not None:
            found[field] = value
    return found


_NEEDED = ("prompt", "chosen", "rejected", "text")


def _value(item: Any, column: str) -> Any:
    """The value of a column; of one that is not there, that of the path which its name's dots spell, or None."""
    if isinstance(item, Mapping) and column in item:
        return item[column]
    for part in column.split("."):
        if isinstance(item, Mapping):
            item = item.get(part)
        elif isinstance(item, list) and part.isdecimal() and int(part) < len(item):
            item = item[int(part)]
        else:
            return None
    return item
