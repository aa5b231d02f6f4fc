"""A fact table of the user's own, from a JSON file: see docs/annotators.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskdpo_ray.domains.table import ENTITY, NAME, NUMBER, WORDS, Entity, FactTable, Kind, Value
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import from_json

_SHAPES = (NAME, WORDS, NUMBER, ENTITY)
_NUMBER = re.compile(r"\d+")


def read(file: Any, name: str) -> FactTable:
    """The table in a JSON file, called `name`; a kind's lexicon is what it gives and all values of the entities.

    Values may be written short: `"franc"` for {"name": "franc"}, and one value for a list of one. Raises DataError,
    one line with the file and the field.
    """
    if not isinstance(file, str):
        raise DataError(f"annotation.options.tables.{name}: expected a JSON file, got {shown(file)}")
    try:
        raw = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: expected a JSON file, got: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected JSON, got: {error}") from None
    if not isinstance(raw, dict):
        raise DataError(f"{file}: expected an object with kinds and entities, got {type(raw).__name__}")
    try:
        table = from_json(FactTable, {**_written_out(raw), "name": name})
        _check(table)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    return replace(table, kinds=tuple(_with_lexicon(kind, table.entities) for kind in table.kinds))


def _written_out(raw: dict[str, Any]) -> dict[str, Any]:
    """The JSON with its short forms written out; what is no short form stays for `from_json` to judge."""
    kinds, entities = raw.get("kinds"), raw.get("entities")
    if isinstance(kinds, list):
        kinds = [_kind(kind) if isinstance(kind, dict) else kind for kind in kinds]
    if isinstance(entities, list):
        entities = [_entity(entity) if isinstance(entity, dict) else entity for entity in entities]
    return {**raw, "kinds": kinds, "entities": entities}


def _kind(kind: dict[str, Any]) -> dict[str, Any]:
    given = {"label": kind.get("name"), "triggers": [], **kind}
    return {**given, "lexicon": _values(kind["lexicon"])} if "lexicon" in kind else given


def _entity(entity: dict[str, Any]) -> dict[str, Any]:
    facts = entity.get("facts", {})
    return {**entity, "facts": {k: _values(v) for k, v in facts.items()} if isinstance(facts, dict) else facts}


def _values(given: Any) -> list[Any]:
    each = given if isinstance(given, list) else [given]
    return [{"name": value} if isinstance(value, str) else value for value in each]


def _check(table: FactTable) -> None:
    """Raise ValueError, one line, about what the types don't say."""
    kinds = {kind.name: kind for kind in table.kinds}
    names = {entity.name for entity in table.entities}
    for what, count, distinct in (
        ("kinds", len(table.kinds), len(kinds)),
        ("entities", len(table.entities), len(names)),
    ):
        if not 0 < count == distinct:
            raise ValueError(f"{what}: expected at least one, each with a name of its own, got {count}")
    for kind in table.kinds:
        if kind.shape not in _SHAPES:
            raise ValueError(f"kind {kind.name!r}: shape: expected one of {', '.join(_SHAPES)}; got {kind.shape!r}")
        if not (kind.triggers or kind.cues):
            raise ValueError(f"kind {kind.name!r}: expected triggers or cues that announce it, got neither")
    for entity in table.entities:
        for name, values in entity.facts.items():
            where = f"entity {entity.name!r}: facts.{name}"
            if name not in kinds:
                raise ValueError(f"{where}: expected one of {', '.join(kinds)}")
            for value in values:
                if kinds[name].shape == NUMBER and not _NUMBER.fullmatch(value.name):
                    raise ValueError(f"{where}: expected a whole number as text, like '79', got {value.name!r}")
                if kinds[name].shape == ENTITY and value.name not in names:
                    raise ValueError(f"{where}: expected an entity of this table, got {value.name!r}")


def _with_lexicon(kind: Kind, entities: Iterable[Entity]) -> Kind:
    if kind.shape == ENTITY:
        return kind
    known: dict[str, Value] = {}
    for value in (*kind.lexicon, *(value for entity in entities for value in entity.facts.get(kind.name, ()))):
        before = known.get(value.name, value)
        known[value.name] = Value(value.name, tuple(dict.fromkeys((*before.aliases, *value.aliases))))
    return replace(kind, lexicon=tuple(known.values()))
