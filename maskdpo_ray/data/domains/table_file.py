"""A fact table of the user's own, from a JSON file: see docs/annotators.md."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.data import jsonl
from maskdpo_ray.data.domains.table import ENTITY, NAME, NUMBER, WORDS, Entity, FactTable, Kind, Value
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import from_json, to_json

_SHAPES = (NAME, WORDS, NUMBER, ENTITY)
_NUMBER = re.compile(r"[0-9]+")
_WORD = re.compile(r"[^\W_]")


def read(file: Any, name: str) -> FactTable:
    """The table in a JSON file, called `name`; a kind's lexicon is what it gives and all values of the entities.

    Values may be written short: `"franc"` for {"name": "franc"}, and one value for a list of one. Raises DataError,
    one line with the file and the field.
    """
    if not isinstance(file, str):
        raise DataError(f"annotation.options.tables.{name}: expected a JSON file, got {shown(file)}")
    (_, raw), *more = jsonl.objects(Path(file))
    if more:
        raise DataError(f"{more[0][0]}: expected nothing after the table, got another object")
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
    given = {"triggers": [], **({"label": kind["name"]} if "name" in kind else {}), **kind}
    where = f"kind {kind.get('name')!r}: lexicon"
    return {**given, "lexicon": _values(kind["lexicon"], where)} if "lexicon" in kind else given


def _entity(entity: dict[str, Any]) -> dict[str, Any]:
    facts, where = entity.get("facts", {}), f"entity {entity.get('name')!r}: facts"
    if isinstance(facts, dict):
        facts = {name: _values(given, f"{where}.{name}") for name, given in facts.items()}
    return {**entity, "facts": facts}


def _values(given: Any, where: str) -> list[dict[str, Any]]:
    each = given if isinstance(given, list) else [given]
    for value in each:
        if not isinstance(value, (str, dict)):
            raise ValueError(f'{where}: expected text in quotes, like "79", got {shown(value)}')
    return [{"name": value} if isinstance(value, str) else value for value in each]


def _check(table: FactTable) -> None:
    """Raise ValueError, one line, about what the types don't say."""
    for where, text in _texts(to_json(table), ""):
        has_control = any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)
        if has_control or not text.strip():
            raise ValueError(f"{where}: expected text on one line that is not empty, got {shown(text)}")
    kinds = {kind.name: kind for kind in table.kinds}
    names = {entity.name for entity in table.entities}
    for what, items in (("kinds", table.kinds), ("entities", table.entities)):
        if not items:
            raise ValueError(f"{what}: expected at least one, got none")
        if again := _again(item.name for item in items):
            raise ValueError(f"{what}: expected names that differ by more than case, got {again[0]!r} and {again[1]!r}")
    owners = {name.casefold(): name for name in names}
    for entity in table.entities:
        for alias in entity.aliases:
            if (owner := owners.get(alias.casefold(), entity.name)) != entity.name:
                raise ValueError(f"entity {entity.name!r}: aliases: expected no other entity's name, got {owner!r}")
    for kind in table.kinds:
        if kind.shape not in _SHAPES:
            raise ValueError(f"kind {kind.name!r}: shape: expected one of {', '.join(_SHAPES)}; got {kind.shape!r}")
        if not (kind.triggers or kind.cues):
            raise ValueError(f"kind {kind.name!r}: expected triggers or cues that announce it, got neither")
        if mute := [words for words in (*kind.triggers, *kind.cues) if not _WORD.search(words)]:
            raise ValueError(f"kind {kind.name!r}: expected a word in every trigger and cue, got {shown(mute[0])}")
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


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text in JSON values, and where it stands: "entities[0].aliases[1]"."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{where}.{name}" if where else name)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}[{number}]")


def _again(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are the same but for case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            return seen[name.casefold()], name
        seen[name.casefold()] = name
    return None


def _with_lexicon(kind: Kind, entities: Iterable[Entity]) -> Kind:
    if kind.shape == ENTITY:
        return kind
    known: dict[str, Value] = {}
    for value in (*kind.lexicon, *(value for entity in entities for value in entity.facts.get(kind.name, ()))):
        before = known.get(value.name, value)
        known[value.name] = Value(value.name, tuple(dict.fromkeys((*before.aliases, *value.aliases))))
    return replace(kind, lexicon=tuple(known.values()))
