"""Tables in text whose quotes are not closed, and separators that the file's name does not say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from maskdpo_ray.data import tables
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.data.rows import preferences
from maskdpo_ray.errors import DataError

HEADER = "prompt,chosen,rejected\n"


def rows(count: int) -> list[str]:
    return [f"Q{n},Good {n}.,Bad {n}.\n" for n in range(count)]


def read(file: Path, lines: list[str]) -> tuple[list[str], Dropped]:
    file.write_text("".join(lines))
    dropped = Dropped(file, 1.0)
    return [each.prompt[0]["content"] for _, each in preferences(file, dropped)], dropped


@pytest.mark.parametrize(
    ("bad", "later"),
    [
        ('Q29,"Good 29.,Bad\n', ""),  # nothing closes it
        ('"Q29,Good 29.,Bad\n', ""),
        ('Q29,Good 29.,"Bad\n', ""),
        ('Q29,"Good 29.,Bad\n', 'Q50,"Good, 50","Bad ""50"""\n'),  # the next quote is that of another row
        ('Q29,"Good 29.,Bad\n', 'Q50,Good 50,"Bad, 50"\n'),
        ('Q29,"Good 29.,Bad\n', 'Q50,"Good\n50",Bad\n'),
    ],
)
def test_an_unclosed_quote_costs_its_row_alone(tmp_path: Path, bad: str, later: str) -> None:
    lines = rows(3000)
    lines[29] = bad
    if later:
        lines[50] = later
    found, dropped = read(tmp_path / "p.csv", [HEADER, *lines])
    assert found == [f"Q{n}" for n in range(3000) if n != 29]
    assert (dropped.records, dropped.counts) == (3000, {"malformed": 1})
    assert dropped.examples["malformed"].startswith(f"{tmp_path}/p.csv:31: expected a row, got: ")


def test_places_are_those_of_the_file_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text(HEADER + 'Q0,"Good,Bad\nQ1,"Go\nod",Bad\nQ2,Good,Bad\n')
    assert [where for where, _ in preferences(file, Dropped(file, 1.0))] == [f"{file}:3", f"{file}:5"]


def test_a_quote_that_swallowed_rows_and_is_closed_by_chance(tmp_path: Path) -> None:
    """The row that comes of it has another number of cells."""
    lines = rows(100)
    lines[29], lines[50] = 'Q29,"Good 29.,Bad\n', 'Q50,3 of 5",4,Bad\n'
    found, dropped = read(tmp_path / "p.csv", [HEADER, *lines])
    assert found == [f"Q{n}" for n in range(100) if n not in (29, 50)]
    assert (dropped.records, dropped.counts) == (100, {"malformed": 2})


def test_what_is_left_of_a_bad_row_is_no_row(tmp_path: Path) -> None:
    found, dropped = read(tmp_path / "p.csv", [HEADER, 'Q0,"Good\n0",Bad, very\n', *rows(3)[1:]])
    assert found == ["Q1", "Q2"]
    assert (dropped.records, dropped.counts) == (4, {"malformed": 2})


def test_time_is_bounded_when_no_row_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_REREAD", 2**21)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"p.csv:\d+: expected quotes that show where rows end, got one that nothing"):
        read(tmp_path / "p.csv", [HEADER, *['a",b,"c\n'] * 50_000])
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(("name", "separator"), [("p.csv", ";"), ("p.csv", "\t"), ("p.tsv", ","), ("p.csv.gz", "|")])
def test_a_separator_that_the_name_does_not_say(tmp_path: Path, name: str, separator: str) -> None:
    with pytest.raises(
        DataError, match=r"p.*:1: expected columns separated by '.*', as the file's name says, got '"
    ) as e:
        read(tmp_path / name, [HEADER.replace(",", separator), *rows(2)])
    assert repr(separator) in str(e.value)
