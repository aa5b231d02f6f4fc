"""Entries of an encyclopedia that questions are built from: read, and filtered by views and description (SMA 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.data.questions import LONGEST_NAME, topic_key
from maskdpo_ray.errors import RecordError, shown
from maskdpo_ray.records import LANGUAGES

SHORTEST, LONGEST = 100, 800
"""Characters of a description: shorter ones hold too few facts, longer ones are cut (SMA 3.1, step 2)."""
_ENDS = ".!?。！？\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """An article: its title and a brief description."""

    title: str
    description: str
    views: float | None = None
    language: str = "en"


def read(path: Path, dropped: Dropped) -> Iterator[Entry]:
    """The entries of a file, each with `title` (or `entry`), `description`, and maybe `views` and `language`.

    Other fields are left alone. Bad entries, and titles that occurred before, go to `dropped`. Raises DataError.
    """
    places: dict[str, str] = {}

    def entry(found: tuple[str, dict[str, Any]]) -> Entry:
        where, value = found
        made = _entry(value, where)
        if first := places.get(topic_key(made.title)):
            message = f"{where}: title: expected a title of its own, got {shown(made.title)} again, first at {first}"
            raise RecordError(message, Reason.DUPLICATE)
        places[topic_key(made.title)] = where
        return made

    return dropped.sift(objects(path, dropped), entry)


def _entry(value: dict[str, Any], where: str) -> Entry:
    title = value.get("title", value.get("entry"))
    if not isinstance(title, str) or not title.strip() or len(title) > LONGEST_NAME - 10 or not title.isprintable():
        expected = f"expected one line of at most {LONGEST_NAME - 10} characters"
        raise RecordError(f"{where}: title: {expected}, got {shown(title)}", Reason.INVALID_FIELD)
    description, views, language = value.get("description"), value.get("views"), value.get("language", "en")
    if not isinstance(description, str):
        raise RecordError(f"{where}: description: expected text, got {shown(description)}", Reason.INVALID_FIELD)
    if views is not None and (isinstance(views, bool) or not isinstance(views, int | float) or views < 0):
        raise RecordError(f"{where}: views: expected a number of at least 0, got {shown(views)}", Reason.INVALID_FIELD)
    if language not in LANGUAGES:
        expected = f"expected one of {', '.join(LANGUAGES)}"
        raise RecordError(f"{where}: language: {expected}, got {shown(language)}", Reason.INVALID_FIELD)
    return Entry(title.strip(), description.strip(), views, language)


def fitted(entry: Entry) -> Entry | None:
    """The entry with a description of at most 800 characters, cut at the end of a sentence where one has 100 before it.

    None when the description is shorter than 100 characters.
    """
    text = entry.description
    if len(text) < SHORTEST:
        return None
    if len(text) > LONGEST:
        end = max(text.rfind(mark, 0, LONGEST) for mark in _ENDS) + 1
        text = text[: end if end >= SHORTEST else LONGEST].rstrip()
    return replace(entry, description=text)
