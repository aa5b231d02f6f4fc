"""The objects of a JSON file, one at a time: JSON Lines, one JSON array, or objects over many lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import from_json

Record = TypeVar("Record")

_CHUNK = 2**18
_MOST = 2**26  # Bytes of one object. With a quote or bracket left open it would be the rest of the file.

# A whole string, a bracket, or the quote of a string that goes on behind what was read.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*")


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of every object in a file, in its order. Raises DataError naming the line."""
    try:
        with path.open("rb") as file:
            yield from _objects(_Scanner(path, file))
    except OSError as error:
        raise DataError(f"{path}: expected a JSON file, got: {error.strerror}") from None


def records(kind: type[Record], path: Path) -> Iterator[tuple[str, Record]]:
    """("file:line", record) of a file of our own. Raises DataError naming line and field."""
    for where, value in objects(path):
        yield where, record(kind, value, where)


def record(kind: type[Record], value: dict[str, Any], where: str) -> Record:
    """`value` as a record of `kind`. Raises DataError naming `where` and the field."""
    try:
        return from_json(kind, value)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def num_lines(path: Path) -> int:
    """Lines in a file, for progress; 0 when it can't be read, which `objects` reports."""
    try:
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))
    except OSError:
        return 0


class _Scanner:
    """Finds where objects end without parsing them; `line` is that of the next byte."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.line = 1
        self._file = file
        self._data = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf")
        self._at = 0

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def peek(self) -> bytes:
        """The next byte that is no white space, b"" at the end of the file."""
        while True:
            space = _SPACE.match(self._data, self._at)
            self.take(len(space[0]) if space else 0)
            if self._at < len(self._data) or not self._read_on():
                return self._data[self._at : self._at + 1]

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        self.line += piece.count(b"\n")
        return piece

    def item(self) -> bytes:
        """The object that starts at the next byte, as far as brackets and quotes tell."""
        depth = length = 0
        while True:
            for mark in _MARK.finditer(self._data, self._at + length):
                if mark[0] == b'"':
                    break
                depth += (mark[0] in b"{[") - (mark[0] in b"}]")
                length = mark.end() - self._at
                if depth == 0:
                    return self.take(length)
            if len(self._data) - self._at > _MOST or not self._read_on():
                raise DataError(
                    f"{self.where}: expected a JSON object, got one whose brackets or quotes are not closed"
                )

    def _read_on(self) -> bool:
        chunk = self._file.read(_CHUNK)
        self._data, self._at = self._data[self._at :] + chunk, 0
        return bool(chunk)


def _objects(scanner: _Scanner) -> Iterator[tuple[str, dict[str, Any]]]:
    is_array = scanner.peek() == b"["
    if is_array:
        scanner.take(1)
    count = 0
    while (byte := scanner.peek()) and not (is_array and byte == b"]"):
        if is_array and count:
            if byte != b",":
                raise DataError(f"{scanner.where}: expected a comma or ] after an object, got {_shown(byte)}")
            scanner.take(1)
            byte = scanner.peek()
        if byte != b"{":
            raise DataError(f"{scanner.where}: expected a JSON object, got {_shown(byte)}")
        line = scanner.line
        yield f"{scanner.path}:{line}", parsed(scanner.path, line, scanner.item())
        count += 1
    if is_array:
        if scanner.take(1) != b"]":
            raise DataError(f"{scanner.where}: expected ] at the end of the array, got the end of the file")
        if byte := scanner.peek():
            raise DataError(f"{scanner.where}: expected nothing after the array, got {_shown(byte)}")
    if not count:
        raise DataError(f"{scanner.path}: expected JSON objects, got none")


def _shown(byte: bytes) -> str:
    return shown(byte.decode("latin-1")) if byte else "the end of the file"


def parsed(path: Path, line: int, data: bytes) -> dict[str, Any]:
    """The JSON value that begins in `line` of a file. Raises DataError naming the line."""
    where = f"{path}:{line}"
    try:
        value: dict[str, Any] = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # JSON's escapes can spell what UTF-8 can't hold
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected UTF-8, got byte {error.object[error.start]:#04x}") from None
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: expected Unicode text, got a lone {ascii(error.object[error.start])}") from None
    except json.JSONDecodeError as error:
        at = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{at}: expected JSON, got: {error.msg} at column {error.colno} of the object") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected JSON, got: {error}") from None
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")
