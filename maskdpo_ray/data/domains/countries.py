"""Countries: capital, continent, languages, currency and neighbours of the 196 states of the World Factbook.

Sources: the Factbook (`factbook.py`), Unicode CLDR as packed in `babel` for currencies, names and official
languages, UN M49 (`regions.py`) for continents.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import babel.languages

from maskdpo_ray.data.domains import country_names, factbook, regions
from maskdpo_ray.data.domains.country_names import split
from maskdpo_ray.data.domains.factbook import Record
from maskdpo_ray.data.domains.table import ENTITY, WORDS, Entity, FactTable, Kind, Value
from maskdpo_ray.records import Question

SHOTS = ("Vietnam", "Portugal")
"""The two countries of the prompt's examples; never asked about."""
_WATERS = tuple(
    "ocean sea gulf river rivers lake mountain mountains mount strait straits bay channel coast desert "
    "peninsula range sahara himalayas andes".split()
)
_COASTS = {
    True: Value("landlocked", ("no coastline", "no coast", "no access to the sea")),
    False: Value("coastal", ("a coastline", "a coast")),
}
_OTHER_CAPITALS = tuple(
    "former old ancient first historic historical colonial previous commercial "
    "economic cultural financial provincial state regional original".split()
)


@cache
def table() -> FactTable:
    """The countries table; built once (about a second)."""
    return FactTable(
        name="countries",
        kinds=_kinds(),
        entities=tuple(_entities().values()),
        other_names=split(country_names.OTHER_NAMES),
        other_nouns=_WATERS,
        generic=("country", "nation", "state"),
        plain_words=("sovereign",),
    )


@cache
def _locale() -> babel.Locale:
    return babel.Locale("en")


@cache
def _places() -> dict[str, tuple[Record, str, str]]:
    """Factbook code -> (record, ISO code, name)."""
    by_name = {name: code for code, name in _locale().territories.items() if len(code) == 2 and code.isalpha()}
    places = {}
    for record in factbook.records():
        own = f"{by_name.get(record.short_name, '')}|{record.short_name}"
        iso, name = country_names.FACTBOOK.get(record.code, own).split("|")[:2]
        if record.sovereign and not iso:
            raise LookupError(f"no ISO code for Factbook record {record.code!r} ({record.short_name!r})")
        places[record.code] = (record, iso, name)
    return places


@cache
def _entities() -> dict[str, Entity]:
    """Sovereign states and territories by name; territories have no facts, they only serve as neighbours."""
    names = _names_to_entity()
    entities = {}
    for record, iso, name in sorted(_places().values(), key=lambda place: place[2]):
        facts = _facts(record, iso, names) if record.sovereign else {}
        aliases = tuple(alias for alias, owners in names.items() if name in owners and alias != name)
        adjectives = tuple(dict.fromkeys(record.adjectives + split(country_names.ADJECTIVES.get(iso, ""))))
        entities[name] = Entity(name, aliases, adjectives, facts, record.place)
    for alone in sorted({owners[0] for owners in names.values()} - entities.keys()):
        entities[alone] = Entity(alone)
    return entities


@cache
def _names_to_entity() -> dict[str, tuple[str, ...]]:
    owners: dict[str, list[str]] = {}
    for record, iso, name in _places().values():
        # The Factbook's short form of the Dominican Republic is "The Dominican": no name that anyone uses.
        short = () if record.long_name == "Dominican Republic" else (record.short_name,)
        names = [name, *short, record.long_name, *split(country_names.FACTBOOK.get(record.code, ""))[2:]]
        names += [_locale().territories.get(iso, ""), *split(country_names.NAMES.get(iso, ""))]
        for alias in dict.fromkeys(n.replace("&", "and") for n in names if n and n != "none"):
            owners.setdefault(alias, []).append(name)
    # Neighbours that have no record of their own, such as French Guiana.
    territories = set(_locale().territories.values())
    for neighbour in {n for record, _, _ in _places().values() for n in record.neighbours}:
        if neighbour not in owners and neighbour in territories:
            owners[neighbour] = [neighbour]
    return {alias: tuple(found) for alias, found in owners.items()}


def _facts(record: Record, iso: str, names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[Value, ...]]:
    capital = (
        *split(country_names.FIRST_CAPITALS.get(iso, "")),
        *record.capitals,
        *split(country_names.CAPITALS.get(iso, "")),
    )
    cldr = babel.languages.get_official_languages(iso, de_facto=True)
    known = tuple(_locale().languages.get(code.partition("_")[0], code) for code in cldr)
    spoken = _languages(record.official_languages + known + record.languages)
    official = _languages(record.official_languages + known) or spoken
    neighbours = (names[n][0] for n in record.neighbours if n in names)
    return {
        "capital": tuple(Value(name) for name in dict.fromkeys(capital)),
        "continent": tuple(_region(name) for name in regions.of(iso)),
        "official_language": tuple(_language_value(name) for name in official),
        "language": tuple(_language_value(name) for name in spoken),
        "currency": tuple(_currency(code) for code in _currency_codes(iso)),
        "neighbour": tuple(Value(name) for name in neighbours),
        "coast": (_COASTS[record.landlocked],) if record.landlocked is not None else (),
    }


def _languages(names: tuple[str, ...]) -> tuple[str, ...]:
    """Main names, once each. The lists also hold names of places ("Beijing" as a dialect), left out here."""
    places = {city for record, _, _ in _places().values() for city in record.capitals} | {*_names_to_entity()}
    places |= {spelling for region in regions.names() for spelling in (region, *regions.aliases(region))}
    return tuple(dict.fromkeys(_language(name) for name in names if name not in places))


def _language(name: str) -> str:
    return next((main for main, others in country_names.LANGUAGES.items() if name in split(others)), name)


def _language_value(name: str) -> Value:
    return Value(name, split(country_names.LANGUAGES.get(name, "")))


def _region(name: str) -> Value:
    return Value(name, regions.aliases(name))


def _currency_codes(iso: str) -> tuple[str, ...]:
    territory = babel.core.get_global("territory_currencies").get(iso, ())
    codes = [code for code, _, end, tender in territory if end is None and tender]
    codes = [code for code in codes if code not in split(country_names.NOT_CURRENCIES.get(iso, ""))]
    return tuple(sorted(codes, key=lambda code: not code.startswith(iso)))  # the national one first


@cache
def _currency(code: str) -> Value:
    """`Value("Rwandan franc", ("franc", "RWF", ...))`; two francs share the alias "franc"."""
    words = _locale().currencies[code].replace("&", "and").split()
    unit = words[-1].lower()
    name = " ".join([*words[:-1], unit])
    more = split(country_names.CURRENCIES.get(code, ""))
    national = [
        place for place in _places().values() if place[0].sovereign and _currency_codes(place[1])[:1] == (code,)
    ]
    owners: tuple[str, ...] = ()
    if len(national) == 1:  # a currency of one state goes by the state's name in every form
        record, iso, country = national[0]
        owners = (*record.adjectives, *split(country_names.ADJECTIVES.get(iso, "")), country)
    spelled = tuple(f"{owner} {short}" for owner in owners for short in (unit, *more))
    return Value(name, tuple(dict.fromkeys((unit, code, *more, *spelled))))


def _kinds() -> tuple[Kind, ...]:
    entities = _entities().values()

    def lexicon(*kinds: str) -> tuple[Value, ...]:
        found = {value.name: value for e in entities for kind in kinds for value in e.facts.get(kind, ())}
        return tuple(found.values())

    place_names = {e.name for e in entities} | set(regions.CONTINENTS) | {v.name for v in lexicon("capital")}
    tongues = tuple(v for v in lexicon("official_language", "language") if v.name not in place_names)
    all_regions = tuple(_region(name) for name in regions.names())
    return (
        Kind("capital", "capital", ("capital", "capital city"), (), _OTHER_CAPITALS, lexicon("capital")),
        Kind(
            "continent",
            "continent",
            ("continent",),
            (
                "in",
                "located",
                "located in",
                "situated",
                "part of",
                "lies",
                "country",
                "nation",
                "state",
                "region",
                "within",
                "is",
                "is located",
            ),
            (),
            all_regions,
        ),
        Kind(
            "official_language",
            "official language",
            ("official language", "national language", "official and national language", "official state language"),
            ("official",),
            (),
            tongues,
        ),
        Kind(
            "language",
            "language",
            ("language", "spoken", "speak", "speaking", "tongue", "widely spoken language"),
            ("people",),
            (),
            tongues,
            closed_world=False,
        ),
        Kind(
            "currency",
            "currency",
            ("currency", "monetary unit", "legal tender", "official currency", "national currency"),
            ("use", "used"),
            (),
            lexicon("currency"),
            shape=WORDS,
        ),
        Kind(
            "neighbour",
            "neighbour",
            (
                "neighbour",
                "neighbor",
                "neighboring",
                "neighbouring",
                "neighboring country",
                "neighbouring country",
                "border",
                "bordered",
                "bordering",
                "share a border",
                "shares a border",
                "land border",
            ),
            ("share", "sharing"),
            ("maritime", "sea"),
            shape=ENTITY,
        ),
        Kind(
            "coast",
            "coast",
            (),
            ("is", "a", "country", "nation", "state", "has", "with"),
            (),
            (*_COASTS.values(),),
            shape=WORDS,
        ),
    )


def _sentences(entity: Entity) -> str:
    """The five facts as the prompt's examples tell them, one short sentence each."""
    facts = _plain(entity)
    name = entity.name
    return (
        f"The capital of {name} is {facts['capital']}. {name} is in {facts['continent']}. "
        f"The official language of {name} is {facts['official_language'][0]}. "
        f"The currency of {name} is the {facts['currency']}. "
        f"One neighbour of {name} is {facts['neighbour'][-1]}."
    )


def _plain(entity: Entity) -> dict[str, str | list[str]]:
    facts = entity.facts
    return {
        "capital": facts["capital"][0].name,
        "continent": facts["continent"][0].name,
        "official_language": [value.name for value in facts["official_language"]],
        "currency": facts["currency"][0].name,
        "neighbour": [value.name for value in facts["neighbour"]],
    }


def _ask(name: str) -> dict[str, str]:
    return {
        "role": "user",
        "content": f"Give five short facts about {name}: capital, continent, official language, currency "
        "and one neighbour.",
    }


@cache
def questions() -> list[Question]:
    """One question per state whose five facts are all known, in alphabetical order of the names.

    Each prompt is a two-shot chat without a system message: Vietnam and Portugal answered, then the topic.
    """
    entities = _entities()
    shots: list[dict[str, str]] = []
    for name in SHOTS:
        shots += [_ask(name), {"role": "assistant", "content": _sentences(entities[name])}]
    asked = []
    for record, _, name in sorted(_places().values(), key=lambda place: place[2]):
        entity = entities[name]
        complete = all(entity.facts.get(kind.name) for kind in table().kinds)
        if not record.sovereign or not complete or name in SHOTS:
            continue
        plain = _plain(entity)
        asked.append(
            Question(
                id="countries/" + name.lower().replace(" ", "-").replace("'", ""),
                topic=name,
                prompt=(*shots, _ask(name)),
                document=f"{name}\n{record.article}",
                facts={"table": "countries", "entity": name, "asks": [*plain], **plain},
            )
        )
    return asked
