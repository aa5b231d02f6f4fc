"""Rows of a file as a config means them: columns under our names, widely used layouts in our fields."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from maskdpo_ray.data import formats
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats import layouts
from maskdpo_ray.data.formats.preference import Preference
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError, RecordError, shown

Columns = Mapping[str, str]
"""Our field -> the column that holds it; `answers.text.0` is the first text within a struct `answers`."""
_NEEDED = ("prompt", "chosen", "rejected", "text")
_MOST_NAMES = 1000
"""Names of columns that are kept for an error line."""


def rows(
    path: Path,
    dropped: Dropped | None = None,
    columns: Columns | None = None,
    fields: Collection[str] | None = None,
    needed: Collection[str] = _NEEDED,
) -> Iterator[tuple[str, Any]]:
    """("file:line", row) as by `objects`; a row that stands for several records comes as these.

    Unusable ones go to `dropped`, and so do columns that no row has. Raises DataError.

    Args:
        columns: `data.columns`.
        fields: fields that records of this kind can have, none: any; columns of other fields are not looked for.
        needed: those of the fields that a row must have where a column is named for them.
    """
    dropped = dropped or Dropped(path)
    asked = {name: column for name, column in (columns or {}).items() if fields is None or name in fields}
    renaming = Renaming(asked, needed)

    def made(found: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        where, item = found
        records = layouts.rewritten(renaming.renamed(item, where), where)
        if len(records) == 1:
            return [(where, records[0])]
        return [(f"{where}:{number}", each) for number, each in enumerate(records)]

    yield from chain.from_iterable(dropped.sift(objects(path, dropped), made))
    dropped.unmet = renaming.unmet(path)


def preferences(path: Path, dropped: Dropped | None = None) -> Iterator[tuple[str, Preference]]:
    """("file:line", preference) of a file in any of the formats, in its order; one at a time is in memory.

    Raises DataError.
    """
    dropped = dropped or Dropped(path)
    return dropped.sift(rows(path, dropped), lambda found: (found[0], formats.preference(found[1], found[0])))


class Renaming:
    """Columns under our names, in one file."""

    def __init__(self, columns: Columns, needed: Collection[str] = _NEEDED, option: str = "data.columns") -> None:
        """`needed`: fields whose column no row may lack; `option`: the one that names the columns."""
        self._columns, self._needed, self._option = columns, needed, option
        self._unmet = set(columns)
        self._names: dict[str, None] = {}

    def renamed(self, item: dict[str, Any], where: str) -> dict[str, Any]:
        """The item with the columns' values under our names. Raises RecordError where a needed column is missing.

        A null, which tables have in place of a value, is one that is missing without being refused.
        """
        if not self._columns:
            return item
        if len(self._names) < _MOST_NAMES:
            self._names.update(dict.fromkeys(item))
        found = dict(item)
        for field, column in self._columns.items():
            value = _value(item, column)
            if value is None and field in self._needed:
                have = ", ".join(item) or "none"
                expected = f"expected the column {column!r} ({self._option}.{field}), got {shown(have)}"
                raise RecordError(f"{where}: {field}: {expected}{_hint(column, item)}", Reason.INVALID_FIELD)
            found.pop(column, None)
            if value is not None:
                found[field] = value
                self._unmet.discard(field)
        return found

    def unmet(self, path: Path) -> dict[str, str]:
        """Field -> error line, for each field whose column no row had."""
        have = shown(", ".join(self._names) or "none")
        return {
            field: f"{self._option}.{field}: expected a column that {path} has, {have}; got {column!r}"
            f"{_hint(column, self._names)}"
            for field, column in self._columns.items()
            if field in self._unmet
        }


def refuse_unmet(read: Iterable[Dropped]) -> None:
    """Raise DataError when no row of any of these files has a column that `data.columns` names."""
    found = [each.unmet for each in read if each.unmet is not None]
    for field, error in found[0].items() if found else ():
        if all(field in each for each in found):
            raise DataError(error)


def _hint(column: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(column, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


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
