"""Countries: capital, continent, languages, currency and neighbours of the 196 states of the World Factbook.

Sources: the Factbook (`factbook.py`), Unicode CLDR as packed in `babel` for currencies, names and official
languages, UN M49 (`regions.py`) for continents.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import babel
import babel.core
import babel.languages

from maskdpo_ray.domains import factbook, regions
from maskdpo_ray.domains.factbook import Record
from maskdpo_ray.domains.table import ENTITY, WORDS, Entity, FactTable, Kind, Value
from maskdpo_ray.records import Question

SHOTS = ("Vietnam", "Portugal")
"""The two countries of the prompt's examples; never asked about."""

# Factbook code -> (ISO 3166 code, name to use, further names). Only where CLDR names the country differently.
_NAMES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ac": ("AG", "Antigua and Barbuda", ()),
    "bf": ("BS", "The Bahamas", ("Bahamas",)),
    "bk": ("BA", "Bosnia and Herzegovina", ("Bosnia", "Bosnia-Herzegovina")),
    "bm": ("MM", "Burma", ("Myanmar", "Republic of the Union of Myanmar")),
    "cf": ("CG", "Republic of the Congo", ("Congo-Brazzaville", "Congo (Brazzaville)", "Republic of Congo", "Congo",
                                           "Congo Republic")),
    "cg": ("CD", "Democratic Republic of the Congo", ("DRC", "DR Congo", "Democratic Republic of Congo", "Congo",
                                                      "Congo-Kinshasa", "Zaire", "D.R. Congo")),
    "cv": ("CV", "Cape Verde", ("Cabo Verde",)),
    "dr": ("DO", "Dominican Republic", ()),
    "gz": ("PS", "Gaza Strip", ("Gaza", "Palestine", "Palestinian territories", "State of Palestine")),
    "we": ("PS", "West Bank", ("Palestine", "Palestinian territories", "State of Palestine")),
    "fm": ("FM", "Micronesia", ("Federated States of Micronesia",)),
    "ga": ("GM", "The Gambia", ("Gambia",)),
    "iv": ("CI", "Ivory Coast", ("Cote d'Ivoire",)),
    "sc": ("KN", "Saint Kitts and Nevis", ()),
    "st": ("LC", "Saint Lucia", ()),
    "td": ("TT", "Trinidad and Tobago", ("Trinidad",)),
    "tp": ("ST", "Sao Tome and Principe", ("Sao Tome",)),
    "tu": ("TR", "Turkey", ("Turkiye",)),
    "vc": ("VC", "Saint Vincent and the Grenadines", ("Saint Vincent",)),
    "vt": ("VA", "Holy See", ("Vatican City", "Vatican")),
}
_MORE_NAMES: dict[str, tuple[str, ...]] = {
    "CZ": ("Czech Republic",), "SZ": ("Swaziland",), "MK": ("Macedonia",), "TL": ("East Timor",),
    "GB": ("UK", "Great Britain", "Britain", "U.K."), "US": ("US", "USA", "U.S.", "United States of America", "America"),
    "AE": ("UAE", "Emirates"), "CF": ("CAR",), "KR": ("Korea",), "KP": ("Korea",), "NL": ("Holland",),
    "RU": ("Russian Federation",), "CN": ("PRC",), "PG": ("PNG",), "MD": ("Moldavia",), "KG": ("Kirghizia",),
}
_MORE_CAPITALS: dict[str, tuple[str, ...]] = {
    "MM": ("Naypyidaw", "Naypyitaw", "Nay Pyi Daw"), "KZ": ("Nur-Sultan",),     "MN": ("Ulan Bator",), "YE": ("Sana'a",), "LK": ("Sri Jayawardenepura Kotte", "Kotte"),
    "MV": ("Male",), "IN": ("Delhi",), "CH": ("Berne",), "MH": ("Delap",),
    "KI": ("South Tarawa",), "GT": ("Guatemala",), "MY": ("Putrajaya",), "MD": ("Kishinev",), "PW": ("Melekeok",),
    "US": ("Washington",), "AG": ("St. John's",),
}
# Legal tender in CLDR, but no currency of the country's own and not officially adopted.
_NOT_CURRENCIES: dict[str, tuple[str, ...]] = {"HT": ("USD",)}
# The seat that the record names last or not in the form to show first.
_FIRST_CAPITALS: dict[str, tuple[str, ...]] = {"MM": ("Nay Pyi Taw",), "LK": ("Sri Jayewardenepura Kotte",)}
_MORE_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "BW": ("Botswanan",), "CI": ("Ivorian",), "SZ": ("Swazi",), "KZ": ("Kazakh",), "KG": ("Kyrgyz",), "NP": ("Nepalese",),
    "TJ": ("Tajik",), "TM": ("Turkmen",), "UZ": ("Uzbek",), "KM": ("Comorian",), "US": ("US", "U.S."), "CD": ("Congolese",),
    "PH": ("Filipino",), "AR": ("Argentinian", "Argentinean"), "BD": ("Bangladesh",), "BY": ("Belarussian",),
    "KP": ("North Korean",), "KR": ("South Korean",), "LS": ("Lesotho",), "MG": ("Madagascan",), "CV": ("Cape Verdean",),
    "TW": ("Taiwanese",), "XK": ("Kosovar",), "AF": ("Afghani",), "LU": ("Luxembourgish",), "SG": ("Singaporean",),
}
_LANGUAGE_ALIASES: dict[str, tuple[str, ...]] = {
    "Swahili": ("Kiswahili",), "Persian": ("Farsi", "Persian Farsi"), "Dari": ("Afghan Persian", "Dari Persian"),
    "Bangla": ("Bengali",), "Mandarin": ("Chinese", "Standard Chinese", "Mandarin Chinese", "Putonghua"),
    "Lao": ("Laotian",), "Malay": ("Bahasa Melayu", "Bahasa Malaysia", "Malaysian"),
    "Indonesian": ("Bahasa Indonesia", "Bahasa"), "Spanish": ("Castilian", "Castilian Spanish"),
    "Khmer": ("Cambodian",), "Sinhala": ("Sinhalese",), "Azerbaijani": ("Azeri",), "Slovenian": ("Slovene",),
    "Norwegian": ("Bokmal Norwegian", "Nynorsk Norwegian", "Norwegian Bokmål", "Norwegian Nynorsk", "Bokmal", "Nynorsk"),
    "Haitian Creole": ("Creole", "Haitian"), "Kinyarwanda": ("Rwandan language",), "Rundi": ("Kirundi",), "Dhivehi": ("Divehi",),
    "Tswana": ("Setswana",), "Southern Sotho": ("Sesotho", "Sotho"), "Northern Sotho": ("Sepedi", "Pedi"),
    "Swati": ("siSwati", "Swazi"), "Tigrinya": ("Tigrigna",), "Chewa": ("Chichewa", "Nyanja", "Chinyanja"),
    "Filipino": ("Tagalog", "Pilipino"), "Berber": ("Tamazight", "Amazigh", "Standard Moroccan Tamazight"),
    "Romanian": ("Moldovan",), "Uzbek": ("Uzbeki",), "Turkmen": ("Turkmani",), "Pashto": ("Pashtu",),
    "Punjabi": ("Panjabi",), "Irish": ("Gaelic", "Gaeilge"), "Greek": ("Modern Greek",), "Tetum": ("Tetun",),
    "Kyrgyz": ("Kirghiz",), "Kazakh": ("Qazaq",), "Burmese": ("Myanmar language",), "Guarani": ("Guaraní",),
    "Luxembourgish": ("Letzeburgesch",), "Hebrew": ("Modern Hebrew",), "Romansh": ("Romansch",), "Zulu": ("isiZulu",),
    "Xhosa": ("isiXhosa",), "Kurdish": ("Kurmanji", "Sorani"), "Comorian": ("Shikomoro", "Shikomor"),
    "Sango": ("Sangho",), "Seychellois Creole": ("Seselwa",), "Maori": ("Māori", "Te Reo"), "Samoan": (),
}
_CURRENCY_ALIASES: dict[str, tuple[str, ...]] = {
    "CNY": ("renminbi", "RMB", "yuan renminbi"), "GBP": ("pound sterling", "British pound sterling", "sterling"),
    "XOF": ("CFA franc", "CFA", "West African franc"), "XAF": ("CFA franc", "CFA", "Central African franc"),
    "USD": ("United States dollar", "American dollar", "U.S. dollar"), "SZL": ("emalangeni",), "LSL": ("maloti",),
    "ILS": ("new Israeli shekel", "shekel", "sheqel"), "BGN": ("leva",), "MDL": ("lei",), "RON": ("lei",),
    "BAM": ("convertible mark", "konvertibilna marka"), "CZK": ("koruna", "crown"), "DKK": ("crown",), "SEK": ("crown", "kronor"), "NOK": ("crown", "kroner"),
    "ISK": ("crown", "kronur"), "PEN": ("nuevo sol",),
    "UZS": ("soum", "som", "sum"), "MNT": ("togrog", "tögrög"), "INR": ("rupee",), "XCD": ("Eastern Caribbean dollar",),
    "PLN": ("zloty",), "BYN": ("ruble", "rouble"), "RUB": ("rouble",), "NGN": ("naira",), "SLE": ("leone",),
    "MOP": (), "MRU": ("ouguiya",), "KGS": ("som",), "EUR": ("€",),
}
_REGION_TRAPS = (
    "African Union", "European Union", "African Development Bank", "Asian Development Bank", "South American Games",
    "Gulf of Guinea", "South China Sea", "Lake Chad", "Niger River", "Congo River", "Jordan River", "Senegal River",
    "Niger Delta", "Congo Basin", "Organization of American States", "Bank of Central African States", "Indian Ocean",
    "Gulf of Mexico", "Gulf of Oman", "Caribbean Sea", "Central African CFA franc", "West African CFA franc",
    "Council of Europe", "Central American Integration System", "East African Community", "Pacific Ocean",
    "South Pacific Ocean", "North Pacific Ocean", "Gambia River", "Paraguay River", "Uruguay River", "Mozambique Channel",
    "East China Sea", "Sea of Japan", "Andaman Sea", "Greenland Sea", "Baltic Sea", "Economic Community of West African "
    "States", "Suriname River", "Great Rift Valley", "British Empire", "Soviet Union", "Roman Empire", "Ottoman Empire",
)


@cache
def table() -> FactTable:
    """The countries table; built once (about a second)."""
    return FactTable(
        name="countries",
        kinds=_kinds(),
        entities=tuple(_entities().values()),
        other_names=_REGION_TRAPS,
        generic=("country", "nation", "state", "island", "republic", "kingdom", "territory"),
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
        iso, name, _ = _NAMES.get(record.code, (by_name.get(record.short_name, ""), record.short_name, ()))
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
        adjectives = tuple(dict.fromkeys(record.adjectives + _MORE_ADJECTIVES.get(iso, ())))
        entities[name] = Entity(name, aliases, adjectives, facts)
    return entities


@cache
def _names_to_entity() -> dict[str, tuple[str, ...]]:
    owners: dict[str, list[str]] = {}
    for record, iso, name in _places().values():
        # The Factbook's short form of the Dominican Republic is "The Dominican": no name that anyone uses.
        short = () if record.long_name == "Dominican Republic" else (record.short_name,)
        names = [name, *short, record.long_name, *_NAMES.get(record.code, ("", "", ()))[2]]
        names += [_locale().territories.get(iso, ""), *_MORE_NAMES.get(iso, ())]
        for alias in dict.fromkeys(n.replace("&", "and") for n in names if n and n != "none"):
            owners.setdefault(alias, []).append(name)
    return {alias: tuple(found) for alias, found in owners.items()}


def _facts(record: Record, iso: str, names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[Value, ...]]:
    capital = (*_FIRST_CAPITALS.get(iso, ()), *record.capitals, *_MORE_CAPITALS.get(iso, ()))
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
    }


def _languages(names: tuple[str, ...]) -> tuple[str, ...]:
    """Main names, once each. The lists also hold names of places ("Beijing" as a dialect), which are left out."""
    places = {city for record, _, _ in _places().values() for city in record.capitals} | {*_names_to_entity()}
    return tuple(dict.fromkeys(_language(name) for name in names if name not in places))


def _language(name: str) -> str:
    return next((main for main, others in _LANGUAGE_ALIASES.items() if name in others), name)


def _language_value(name: str) -> Value:
    return Value(name, _LANGUAGE_ALIASES.get(name, ()))


def _region(name: str) -> Value:
    return Value(name, regions.aliases(name))


def _currency_codes(iso: str) -> tuple[str, ...]:
    territory = babel.core.get_global("territory_currencies").get(iso, ())
    codes = [code for code, _, end, tender in territory if end is None and tender]
    codes = [code for code in codes if code not in _NOT_CURRENCIES.get(iso, ())]
    return tuple(sorted(codes, key=lambda code: not code.startswith(iso)))  # the national one first


@cache
def _currency(code: str) -> Value:
    """`Value("Rwandan franc", ("franc", "RWF", ...))`; two francs share the alias "franc"."""
    words = _locale().currencies[code].replace("&", "and").split()
    unit = words[-1].lower()
    name = " ".join([*words[:-1], unit])
    more = _CURRENCY_ALIASES.get(code, ())
    national = [place for place in _places().values() if place[0].sovereign and _currency_codes(place[1])[:1] == (code,)]
    owners: tuple[str, ...] = ()
    if len(national) == 1:  # a currency of one state goes by the state's name in every form
        record, iso, country = national[0]
        owners = (*record.adjectives, *_MORE_ADJECTIVES.get(iso, ()), country)
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
        Kind("capital", "capital", ("capital", "capital city"), (), lexicon("capital")),
        Kind("continent", "continent", ("continent",),
             ("in", "located", "located in", "situated", "part of", "lies", "country", "nation", "state", "region",
              "island", "within", "is", "is located"), all_regions),
        Kind("official_language", "official language",
             ("official language", "national language", "official and national language",
                                                        "official state language"), ("official",), tongues),
        Kind("language", "language", ("language", "spoken", "speak", "speaking", "tongue", "widely spoken language"),
             (), tongues, closed_world=False),
        Kind("currency", "currency", ("currency", "monetary unit", "legal tender", "official currency",
                                      "national currency"), ("use", "used"), lexicon("currency"), shape=WORDS),
        Kind("neighbour", "neighbour",
             ("neighbour", "neighbor", "neighboring", "neighbouring", "neighboring country", "neighbouring country",
              "border", "bordered", "bordering", "share a border", "shares a border", "land border"), (), (),
             shape=ENTITY),
    )


def _sentences(entity: Entity) -> str:
    """The five facts as the prompt's examples tell them, one short sentence each."""
    facts = _plain(entity)
    name = entity.name
    return (
        f"The capital of {name} is {facts['capital']}. {name} is in {facts['continent']}. "
        f"The official language of {name} is {facts['official_language'][0]}. "
        f"The currency of {name} is the {facts['currency']}. "
        f"One neighbour of {name} is {facts['neighbours'][-1]}."
    )


def _plain(entity: Entity) -> dict[str, str | list[str]]:
    facts = entity.facts
    return {
        "capital": facts["capital"][0].name,
        "continent": facts["continent"][0].name,
        "official_language": [value.name for value in facts["official_language"]],
        "currency": facts["currency"][0].name,
        "neighbours": [value.name for value in facts["neighbour"]],
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
    for record, iso, name in sorted(_places().values(), key=lambda place: place[2]):
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
                document=_document(record, entity),
                facts={"table": "countries", "entity": name, **plain},
            )
        )
    return asked


def _document(record: Record, entity: Entity) -> str:
    facts = entity.facts
    listed = {kind: ", ".join(value.name for value in facts[kind]) for kind in facts}
    return (
        f"{entity.name} lies in {record.location[:1]}{record.location[1:]}. It belongs to {facts['continent'][0].name}. "
        f"Its capital is {listed['capital']}. Official language: {listed['official_language']}. "
        f"Languages: {listed['language']}. Currency: {listed['currency']}. "
        f"It borders on {listed['neighbour']}."
    )
