"""Chemical elements: symbol, atomic number, category, period, group, block and state at room temperature.

Source: the SQLite file inside the PyPI package `mendeleev`, read directly (importing the package takes
seconds and an ORM).
"""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from maskdpo_ray.data.domains.table import NAME, NUMBER, WORDS, Entity, FactTable, Kind, Value
from maskdpo_ray.records import Question

SHOTS = ("Oxygen", "Iron")
"""The two elements of the prompt's examples; never asked about."""
ASKS = ("symbol", "atomic_number", "category", "period", "state")
"""Kinds of fact that a question asks for."""
ROOM_TEMPERATURE = 298.15
"""Kelvin."""
_SERIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Nonmetals": (
        "nonmetal",
        (
            "reactive nonmetal",
            "polyatomic nonmetal",
            "diatomic nonmetal",
            "non-metallic element",
            "other nonmetal",
            "nonmetallic element",
            "non-metal",
        ),
    ),
    "Noble gases": ("noble gas", ("inert gas", "rare gas")),
    "Alkali metals": ("alkali metal", ()),
    "Alkaline earth metals": ("alkaline earth metal", ("alkaline earth", "alkaline-earth metal", "alkaline metal")),
    "Metalloids": ("metalloid", ("semimetal", "semi-metal")),
    "Halogens": ("halogen", ()),
    "Poor metals": ("post-transition metal", ("poor metal", "posttransition metal", "basic metal", "other metal")),
    "Transition metals": ("transition metal", ("transition element", "transition")),
    "Lanthanides": ("lanthanide", ("lanthanoid", "lanthanide metal", "lanthanide series")),
    "Actinides": ("actinide", ("actinoid", "actinide metal", "actinide series")),
}
_METALS = {"Alkali metals", "Alkaline earth metals", "Poor metals", "Transition metals", "Lanthanides", "Actinides"}
_WIDER: dict[str, Value] = {
    "metal": Value("metal", ("metallic element",)),
    "nonmetal": Value("nonmetal", _SERIES["Nonmetals"][1]),
    "rare earth": Value("rare earth element", ("rare earth", "rare-earth element", "rare earth metal")),
    "inner": Value("inner transition metal", ("inner transition element", "inner transition")),
}
_RARE_EARTHS = {"Scandium", "Yttrium", "Lutetium"}
# Elements that textbooks class in two ways (IUPAC has no rule); either is accepted.
_ALSO: dict[str, str] = {
    "Zinc": "Poor metals",
    "Cadmium": "Poor metals",
    "Mercury": "Poor metals",
    "Copernicium": "Poor metals",
    "Polonium": "Poor metals",
    "Astatine": "Metalloids",
    "Lutetium": "Lanthanides",
    "Lawrencium": "Actinides",
    "Lanthanum": "Transition metals",
    "Actinium": "Transition metals",
    "Selenium": "Metalloids",
    "Germanium": "Poor metals",
    "Antimony": "Poor metals",
    "Aluminum": "Metalloids",
}
_WORDS = {"I", "In", "As", "He", "At", "No", "Be", "Am"}
"""Symbols that are English words: never read as the element's name."""
_PLAIN = tuple("chemical periodic table room temperature standard conditions".split())
_ALIASES: dict[str, tuple[str, ...]] = {"Aluminum": ("Aluminium",), "Cesium": ("Caesium",), "Sulfur": ("Sulphur",)}


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    symbol: str
    name: str
    group: int | None
    period: int
    block: str
    series: str
    phase: str | None
    discoverers: str | None
    year: int | None
    description: str


@cache
def _rows() -> tuple[_Row, ...]:
    spec = importlib.util.find_spec("mendeleev")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("package 'mendeleev' is not installed; the elements table reads its data file")
    path = Path(spec.origin).with_name("elements.db")
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        points: dict[int, list[tuple[float | None, float | None]]] = {}
        for number, melting, boiling in connection.execute(
            "SELECT atomic_number, melting_point, boiling_point FROM phasetransitions ORDER BY id"
        ):
            points.setdefault(number, []).append((melting, boiling))
        rows = connection.execute(
            "SELECT atomic_number, symbol, elements.name, group_id, period, block, series.name, discoverers, "
            "discovery_year, description FROM elements JOIN series ON series.id = series_id "
            "ORDER BY atomic_number"
        ).fetchall()
    return tuple(
        _Row(n, symbol, name, group, period, block, series, _phase(points.get(n, [])), who, year, text or "")
        for n, symbol, name, group, period, block, series, who, year, text in rows
    )


def _phase(points: list[tuple[float | None, float | None]]) -> str | None:
    """State at room temperature, or None where no form's melting or boiling point decides it."""
    phases = set()
    for melting, boiling in points:
        if boiling is not None and boiling < ROOM_TEMPERATURE:
            phases.add("gas")
        elif melting is not None and melting > ROOM_TEMPERATURE:
            phases.add("solid")
        elif melting is not None and boiling is not None:
            phases.add("liquid")
    return phases.pop() if len(phases) == 1 else None


def _categories(row: _Row) -> tuple[Value, ...]:
    found = [Value(*_SERIES[series]) for series in (row.series, _ALSO.get(row.name, row.series))]
    if row.series in _METALS:
        found.append(_WIDER["metal"])
    if row.series in {"Nonmetals", "Noble gases", "Halogens"}:
        found.append(_WIDER["nonmetal"])
    if row.series == "Lanthanides" or row.name in _RARE_EARTHS:
        found.append(_WIDER["rare earth"])
    if row.series in {"Lanthanides", "Actinides"}:
        found.append(_WIDER["inner"])
    return tuple(dict.fromkeys(found))


def _number(value: int) -> Value:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return Value(str(value), (words[value - 1],) if value <= len(words) else ())


def _entity(row: _Row) -> Entity:
    surnames = tuple(Value(name) for name in (row.discoverers or "").replace(" and ", ",").split(",") if name.strip())
    return Entity(
        row.name,
        _ALIASES.get(row.name, ()) + (() if row.symbol in _WORDS else (row.symbol,)),
        (),
        {
            "symbol": (Value(row.symbol),),
            "atomic_number": (_number(row.number),),
            "category": _categories(row),
            "period": (_number(row.period),),
            "group": (_number(row.group),) if row.group else (),
            "block": (Value(f"{row.block}-block"),),
            "state": (_state(row.phase),) if row.phase else (),
            "discovery_year": (Value(str(row.year)),) if row.year else (),
            "discoverer": surnames if row.year else (),
        },
    )


def _state(phase: str) -> Value:
    return Value(phase, {"gas": ("gaseous",), "liquid": (), "solid": ()}[phase])


@cache
def table() -> FactTable:
    """The elements table; built once (milliseconds)."""
    entities = tuple(_entity(row) for row in _rows())

    def lexicon(kind: str) -> tuple[Value, ...]:
        return tuple({value.name: value for e in entities for value in e.facts.get(kind, ())}.values())

    kinds = (
        Kind(
            "symbol",
            "symbol",
            ("symbol", "chemical symbol", "atomic symbol", "chemical formula"),
            (),
            (),
            lexicon("symbol"),
            shape=NAME,
        ),
        Kind(
            "atomic_number",
            "atomic number",
            ("atomic number", "proton", "number of proton"),
            (),
            (),
            lexicon("atomic_number"),
            shape=NUMBER,
        ),
        Kind(
            "category",
            "category",
            ("category", "type of element"),
            ("classified as", "is a", "is an", "member of", "a", "an", "one of the", "series", "belongs to"),
            (),
            lexicon("category"),
            shape=WORDS,
        ),
        Kind("period", "period", ("period",), (), (), lexicon("period"), shape=NUMBER),
        Kind("group", "group", ("group",), (), (), lexicon("group"), shape=NUMBER),
        Kind("block", "block", (), ("block",), (), lexicon("block")),
        Kind(
            "state",
            "state at room temperature",
            (
                "state at room temperature",
                "state of matter",
                "standard state",
                "physical state",
                "state at standard conditions",
                "phase",
            ),
            ("is a", "is", "a", "state", "room temperature", "standard conditions", "standard temperature"),
            (),
            lexicon("state"),
            shape=WORDS,
        ),
        Kind(
            "discovery_year",
            "year of discovery",
            (),
            ("discovered", "discovery"),
            (),
            lexicon("discovery_year"),
            closed_world=False,
            shape=WORDS,
        ),
        Kind(
            "discoverer", "discoverer", (), ("discovered", "discoverer"), (), lexicon("discoverer"), closed_world=False
        ),
    )
    traps = (
        "noble metal",
        "natural gas",
        "precious metal",
        "heavy metal",
        "superheavy metal",
        "light metal",
        "metal alloy",
        "solid state",
    )
    return FactTable("elements", kinds, entities, traps, generic=("element",), plain_words=_PLAIN)


def _sentences(entity: Entity) -> str:
    """The five facts as the prompt's examples tell them, one short sentence each."""
    first = {kind: values[0].name for kind, values in entity.facts.items() if values}
    article = "an" if first["category"][0] in "aeiou" else "a"
    return (
        f"The symbol of {entity.name} is {first['symbol']}. The atomic number of {entity.name} is "
        f"{first['atomic_number']}. {entity.name} is {article} {first['category']}. {entity.name} is in "
        f"period {first['period']}. {entity.name} is a {first['state']} at room temperature."
    )


def _ask(name: str) -> dict[str, str]:
    return {
        "role": "user",
        "content": f"Give five short facts about {name}: symbol, atomic number, category, period and state "
        "at room temperature.",
    }


@cache
def questions() -> list[Question]:
    """One question per element whose five facts are all known, by atomic number.

    Each prompt is a two-shot chat without a system message: Oxygen and Iron answered, then the topic.
    """
    entities = {entity.name: entity for entity in table().entities}
    shots: list[dict[str, str]] = []
    for name in SHOTS:
        shots += [_ask(name), {"role": "assistant", "content": _sentences(entities[name])}]
    asked = []
    for row in _rows():
        if row.name in SHOTS or row.phase is None:
            continue
        facts = entities[row.name].facts
        plain = {kind: values[0].name for kind, values in facts.items() if values}
        asked.append(
            Question(
                id=f"elements/{row.name.lower()}",
                topic=row.name,
                prompt=(*shots, _ask(row.name)),
                document=_document(row),
                facts={"table": "elements", "entity": row.name, "asks": [*ASKS], **plain},
            )
        )
    return asked


def _document(row: _Row) -> str:
    """Fields of the data file, one a line; unlike the facts, which are derived from them."""
    fields = {
        "Chemical symbol": row.symbol,
        "Atomic number (protons)": row.number,
        "Category": row.series,
        "Period": row.period,
        "Group": row.group,
        "Block": row.block,
        "State at room temperature": row.phase,
        "Discovered by": row.discoverers,
        "Year of discovery": row.year,
        "Description": row.description,
    }
    return "\n".join([row.name, *(f"{heading}: {value}" for heading, value in fields.items() if value)])
