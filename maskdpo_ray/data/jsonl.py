"""Streaming reader of a file's objects: JSON Lines, one JSON array, objects over many lines, or the rows of a table;
of a folder of such files, or a data set of the Hub.

A bad object becomes a RecordError, and reading continues with the next one.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from maskdpo_ray.data import compressed, hub_data, tables
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.tables import Found
from maskdpo_ray.errors import DataError, RecordError, shown
from maskdpo_ray.records import from_json

Record = TypeVar("Record")
_OF_RECORDS = frozenset(("id", "question_id", "prompt", "text", "chosen", "rejected", "conversations"))
"""Fields of questions, answers and pairs; each of these records has one."""
_SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")
"""Endings of the files of a folder that are read together."""
_SPLITS = ("train", "test", "validation", "dev")
_PART = re.compile(r"(.+?)-\d+-of-\d+\.")
_CHUNK = 2**18
_MOST = 2**26  # Bytes of one object. With a quote or bracket left open it would be the rest of the file.
# A whole string, a bracket, a line's end, or the quote of a string that continues after what was read.
_MARK = re.compile(rb'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"|["{}\[\]\n]')
_SPACE = re.compile(rb"[ \t\r\n]*")


def objects(path: Path, dropped: Dropped | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of every object in a file, in its order; of a table ("file:row", row).

    Places differ: of several objects on a line the second is at "file:line:2".

    Bad ones go to `dropped`, whose share is checked at the end; without it the first error is raised. Raises DataError
    naming the line.
    """
    dropped = dropped or Dropped(path)
    for where, found in attempts(path):
        dropped.met()
        if isinstance(found, RecordError):
            dropped.take(found)
        else:
            yield where, found
    dropped.check()


def attempts(path: Path) -> Iterator[tuple[str, Found]]:
    """Every object of a file as by `objects`, with the error in place of a bad one.

    Raises DataError if the whole file is unreadable.
    """
    count = 0
    try:
        for each in _attempts(path):
            count += 1
            yield each
    except OSError as error:
        hint = hub_data.hint(path) if isinstance(error, FileNotFoundError) else ""
        raise DataError(f"{path}: expected a JSON file, got: {error.strerror or error}{hint}") from None
    if not count:
        expected = "rows, got a table without" if _is_table(path) else "JSON objects, got none"
        raise DataError(f"{path}: expected {expected}")


def _is_table(path: Path) -> bool:
    """Whether a readable source is a table, or a folder or data set of them."""
    if hub_data.parsed(path):
        return True
    if os.path.isdir(path):
        return tables.is_saved(path) or _is_table(_parts(path)[0])
    with compressed.opened(path) as file:
        return tables.reader(path, file.peek(8)[:8]) is not None


def _attempts(path: Path) -> Iterator[tuple[str, Found]]:
    if name := hub_data.parsed(path):
        yield from hub_data.rows(name)
        return
    if os.path.isdir(path):
        yield from tables.saved(path) if tables.is_saved(path) else chain.from_iterable(map(_attempts, _parts(path)))
        return
    with compressed.opened(path) as file:
        head = file.peek(8)[:8]
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{path}: expected UTF-8, got UTF-16")
        read = tables.reader(path, head)
        yield from _found(_Scanner(path, file)) if read is None else read(path, file)


def _parts(folder: Path) -> list[Path]:
    """Files of a folder that hold one set of records in parts, in order of name. Raises DataError."""
    files = sorted(each for each in folder.iterdir() if each.is_file() and _suffix(each) in _SUFFIXES)
    if not files:
        raise DataError(f"{folder}: expected files in {', '.join(_SUFFIXES)}, got a folder without")
    for what in (_suffix, _split):
        if len(found := sorted({what(each) for each in files})) > 1:
            one = files[0] if what is _suffix else f"one split's part of them, or a folder of it, as {files[0].name}"
            raise DataError(f"{folder}: expected the parts of one set, got {' and '.join(found)}; give {one}")
    return files


def _suffix(file: Path) -> str:
    return Path(file.name.removesuffix(file.suffix) if file.suffix in compressed.SUFFIXES else file.name).suffix


def _split(file: Path) -> str:
    """Name before the number of a part, `train` in train-00000-of-00002.parquet; that of train.parquet."""
    found = _PART.match(file.name)
    return found[1] if found else file.name.partition(".")[0] if file.name.partition(".")[0] in _SPLITS else ""


def records(kind: type[Record], path: Path, dropped: Dropped | None = None) -> Iterator[tuple[str, Record]]:
    """("file:line", record) of a file of our own. Raises DataError naming line and field."""
    dropped = dropped or Dropped(path)
    return dropped.sift(objects(path, dropped), lambda item: (item[0], record(kind, item[1], item[0])))


def record(kind: type[Record], value: dict[str, Any], where: str) -> Record:
    """`value` as a record of `kind`. Raises RecordError naming `where` and the field."""
    try:
        return from_json(kind, value)
    except ValueError as error:
        raise RecordError(f"{where}: {error}", Reason.INVALID_FIELD) from None


def refuse_list(item: Mapping[str, Any], where: str) -> None:
    """Raise RecordError for an object that holds a list of records, as {"data": [...]} does, and is none itself."""
    if not _OF_RECORDS.isdisjoint(item):
        return
    for name, value in item.items():
        is_list = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
        if is_list and not _OF_RECORDS.isdisjoint(value[0]):
            message = f"expected a record, got an object that holds a list of {len(value)} in {name!r}; give that list"
            raise RecordError(f"{where}: {message}", Reason.INVALID_FIELD)


def num_lines(path: Path) -> int:
    """Approximate number of objects in a file, for progress; 0 if compressed or unreadable (`objects` reports that)."""
    try:
        with path.open("rb") as file:
            return tables.num_rows(path, file.read(8)) or sum(
                chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b"")
            )
    except OSError:
        return 0


class _Scanner:
    """Finds where objects end without parsing them; `line` is that of the next byte."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.line = 1
        self.in_lines = False
        """Whether an object on one line was found: then each is on one line."""
        self._has_endless = False
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
        """The object that starts at the next byte, as far as brackets and quotes tell.

        Raises RecordError, nothing taken, when it has no end.
        """
        depth = length = 0
        while True:
            for mark in _MARK.finditer(self._data, self._at + length):
                if mark[0] == b'"':
                    if self._data.find(b"\n", mark.end()) >= 0:
                        raise self._unclosed()  # no string continues on the next line
                    break
                if mark[0] == b"\n":
                    if mark.end() == len(self._data):
                        break  # what the next line begins with is not known yet
                    # In one without an end every later one would be looked through, and that again and again.
                    if (self.in_lines or self._has_endless) and self._data[mark.end()] == ord("{"):
                        raise self._unclosed()
                    continue
                depth += (mark[0] in b"{[") - (mark[0] in b"}]")
                length = mark.end() - self._at
                if depth == 0:
                    return self.take(length)
            if len(self._data) - self._at > _MOST or not self._read_on():
                self._has_endless = True
                raise self._unclosed()

    def _unclosed(self) -> RecordError:
        message = f"{self.where}: expected a JSON object, got one whose brackets or quotes are not closed"
        return RecordError(message, Reason.MALFORMED)

    def give_back(self, piece: bytes) -> None:
        """Undo `take`."""
        self._at -= len(piece)
        self.line -= piece.count(b"\n")

    def skip(self) -> None:
        """Take the rest of the line, and the following lines that can't start an object."""
        while True:
            while (end := self._data.find(b"\n", self._at)) < 0:
                self.take(len(self._data) - self._at)
                if not self._read_on():
                    return
            self.take(end + 1 - self._at)
            if self._at == len(self._data) and not self._read_on():
                return
            if self.in_lines or self._data[self._at] not in b' \t}]"':
                return

    def _read_on(self) -> bool:
        chunk = self._file.read(_CHUNK)
        self._data, self._at = self._data[self._at :] + chunk, 0
        return bool(chunk)


def _found(scanner: _Scanner) -> Iterator[tuple[str, Found]]:
    """Objects with a place of their own each, which may become their id."""
    line, number = "", 0
    for where, found in _in_array(scanner) if scanner.peek() == b"[" else _one_by_one(scanner):
        number = number + 1 if where == line else 1
        line = where
        yield where if number == 1 else f"{where}:{number}", found


def _one_by_one(scanner: _Scanner) -> Iterator[tuple[str, Found]]:
    """Objects without separators, on one line each or on several; after a bad one reading resumes on the next line."""
    while byte := scanner.peek():
        where, line = scanner.where, scanner.line
        try:
            if byte != b"{":
                raise RecordError(f"{where}: expected a JSON object, got {_shown(byte)}", Reason.MALFORMED)
            data = scanner.item()
            try:
                value = parsed(scanner.path, line, data)
            except RecordError:
                scanner.give_back(data)
                raise
        except RecordError as error:
            scanner.skip()
            yield where, error
        else:
            scanner.in_lines |= scanner.line == line
            yield where, value


def _in_array(scanner: _Scanner) -> Iterator[tuple[str, Found]]:
    """Objects of one array. Raises DataError if brackets or commas don't show where objects end."""
    scanner.take(1)
    count = 0
    while (byte := scanner.peek()) and byte != b"]":
        if count:
            if byte != b",":
                raise DataError(f"{scanner.where}: expected a comma or ] after an object, got {_shown(byte)}")
            scanner.take(1)
            byte = scanner.peek()
        if byte != b"{":
            raise DataError(f"{scanner.where}: expected a JSON object, got {_shown(byte)}")
        where, line = scanner.where, scanner.line
        data = scanner.item()
        try:
            yield where, parsed(scanner.path, line, data)
        except RecordError as error:
            yield where, error
        count += 1
    if scanner.take(1) != b"]":
        raise DataError(f"{scanner.where}: expected ] at the end of the array, got the end of the file")
    if byte := scanner.peek():
        raise DataError(f"{scanner.where}: expected nothing after the array, got {_shown(byte)}")


def _shown(byte: bytes) -> str:
    return shown(byte.decode("latin-1")) if byte else "the end of the file"


def parsed(path: Path, line: int, data: bytes) -> dict[str, Any]:
    """The JSON value that begins in `line` of a file. Raises RecordError naming the line."""
    where = f"{path}:{line}"
    try:
        value: dict[str, Any] = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # JSON's escapes can spell what UTF-8 can't hold
        return value
    except UnicodeDecodeError as error:
        message = f"{where}: expected UTF-8, got byte {error.object[error.start]:#04x}"
    except UnicodeEncodeError as error:
        message = f"{where}: expected Unicode text, got a lone {ascii(error.object[error.start])}"
    except json.JSONDecodeError as error:
        at = f"{path}:{line + error.lineno - 1}"
        message = f"{at}: expected JSON, got: {error.msg} at column {error.colno} of the object"
    except (ValueError, RecursionError) as error:
        message = f"{where}: expected JSON, got: {error}"
    raise RecordError(message, Reason.MALFORMED)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")
