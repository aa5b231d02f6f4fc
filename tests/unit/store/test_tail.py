"""A file followed while another process appends to it, tears it, cuts it and replaces it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store import tail
from maskdpo_ray.store.tail import Tail


def added(file: Path, data: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(data)


def test_each_line_is_given_once_when_its_end_is_there(tmp_path: Path) -> None:
    file = tmp_path / "log"
    found = Tail(file)
    assert list(found.lines()) == [] and not found.rewind()
    for data, lines in ((b"one\ntw", [b"one"]), (b"", []), (b"o\n\nthree\n", [b"two", b"", b"three"]), (b"four", [])):
        added(file, data)
        assert not found.rewind()
        assert list(found.lines()) == lines


def test_lines_longer_than_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the places where reads and writes end, the lines are those of the file."""
    monkeypatch.setattr(tail, "_CHUNK", 7)
    draws, file = random.Random(3), tmp_path / "log"
    found, given = Tail(file), []
    data = b"".join(bytes(draws.choices(b"abc", k=draws.randrange(30))) + b"\n" for _ in range(100))
    while data:
        size = draws.randrange(1, 40)
        added(file, data[:size])
        data = data[size:]
        given += found.lines()
    assert given == file.read_bytes()[:-1].split(b"\n")


@pytest.mark.parametrize("other", [b"new\n", b"other1\nother2\nother3\n", b""])
def test_another_file_is_read_from_its_start(tmp_path: Path, other: bytes) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"first1\nfirst2\n")
    found = Tail(file)
    assert len(list(found.lines())) == 2
    file.write_bytes(other)
    assert found.rewind()
    assert list(found.lines()) == other.split(b"\n")[:-1]
    assert not found.rewind()


def test_a_file_that_was_removed_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"line\n")
    found = Tail(file)
    assert list(found.lines()) == [b"line"]
    file.unlink()
    assert found.rewind() and list(found.lines()) == []


@pytest.mark.parametrize(("last", "expected"), [(3, []), (4, [b"ccc"]), (5, [b"ccc"]), (8, [b"bbb", b"ccc"]), (99, 3)])
def test_the_last_bytes_begin_with_a_whole_line(tmp_path: Path, last: int, expected: list[bytes] | int) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"aaa\nbbb\nccc\n")
    found = Tail(file, last)
    lines = list(found.lines())
    assert lines == expected or len(lines) == expected
    added(file, b"ddd\n")
    assert list(found.lines()) == [b"ddd"]


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"^{tmp_path}: can't be read: Is a directory$"):
        list(Tail(tmp_path).lines())
