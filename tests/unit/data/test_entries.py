"""Entries: what is read, what is dropped, which descriptions fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.data.builders.entries import Entry, fitted, read
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.errors import RecordError


def entries(path: Path, *values: dict[str, Any], highest: float = 0.0) -> tuple[list[Entry], Dropped]:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    dropped = Dropped(path, highest)
    return list(read(path, dropped)), dropped


def test_fields_and_their_defaults(tmp_path: Path) -> None:
    found, _ = entries(
        tmp_path / "e.jsonl",
        {"title": " Rwanda ", "description": " A state. ", "url": "x"},
        {"entry": "卢旺达", "description": "国家。", "views": 7, "language": "zh"},
    )
    assert found == [Entry("Rwanda", "A state."), Entry("卢旺达", "国家。", 7, "zh")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"description": "d"}, "title: expected one line of at most 190 characters, got None"),
        ({"title": "a\nb", "description": "d"}, r"title: expected one line of at most 190 characters, got 'a\nb'"),
        ({"title": "t" * 191, "description": "d"}, "title: expected one line of at most 190 characters, got 'ttt"),
        ({"title": "t"}, "description: expected text, got None"),
        ({"title": "t", "description": "d", "views": "7"}, "views: expected a number of at least 0, got '7'"),
        ({"title": "t", "description": "d", "language": "fr"}, "language: expected one of en, zh, got 'fr'"),
    ],
)
def test_bad_entries_are_one_line(tmp_path: Path, value: dict[str, Any], expected: str) -> None:
    file = tmp_path / "e.jsonl"
    with pytest.raises(RecordError) as error:
        entries(file, value, {"title": "u", "description": "d"})
    assert str(error.value).startswith(f"{file}:1: {expected}")


def test_a_title_that_occurred_before_is_dropped(tmp_path: Path) -> None:
    rwanda = {"title": "Rwanda", "description": "d"}
    found, dropped = entries(tmp_path / "e.jsonl", rwanda, {**rwanda, "title": "rwanda"}, highest=0.1)
    assert found == [Entry("Rwanda", "d")] and dropped.counts == {"duplicate": 1}


def test_descriptions_of_100_to_800_characters() -> None:
    def length(text: str) -> int | None:
        found = fitted(Entry("t", text))
        return None if found is None else len(found.description)

    assert [length("x" * n) for n in (99, 100, 800, 801)] == [None, 100, 800, 800]
    sentence = "x" * 98 + ". "  # 100 characters, the full stop is the 99th
    assert length(sentence * 9) == 799
    assert length("x" * 98 + "." + "y" * 900) == 800  # no sentence of 100 characters ends before
