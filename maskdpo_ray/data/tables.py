"""Rows of tables: Parquet, Arrow, CSV, TSV, and what `save_to_disk` of `datasets` writes.

A null cell, also in a struct, counts as a missing field: tables have the fields of all rows in each. pyarrow is
imported only when there is a table to read; no code from a file is ever run.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from maskdpo_ray.data.compressed import SUFFIXES
from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.errors import DataError, RecordError, one_line, shown

Found = dict[str, Any] | RecordError
"""An object, or the error about it."""
Reader = Callable[[Path, io.BufferedReader], Iterator[tuple[str, Found]]]
_ROWS = 256
"""Rows of a batch, which are in memory as Python values."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = (";", "\t", ",", "|")
_LONGEST_CELL = 2**26
_MOST_REREAD = 2**28
"""Characters of a table in text that are read again behind rows that are not closed."""
_AS_JSON = frozenset(
    {
        *("chosen_item", "rejected_item", "chosen_sentences", "rejected_sentences", "sentences", "facts", "sample"),
        *("token_ids", "prompt_token_ids", "policy_version", "wrong_answers"),
    }
)
"""Columns that don't hold text: in CSV their cells are JSON."""


def reader(path: Path, head: bytes) -> Reader | None:
    """Reader for a table file that begins with `head` (8 bytes); None if it is not a table."""
    if head.startswith(b"PAR1"):
        return _parquet
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _arrow
    return None if _delimiter(path) is None else _delimited


def num_rows(path: Path, head: bytes) -> int:
    """Number of rows of a Parquet file; 0 for other or unreadable files."""
    if not head.startswith(b"PAR1"):
        return 0
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.ParquetFile(path).metadata.num_rows)
    except (pyarrow.ArrowException, OSError):
        return 0


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk` of `datasets`."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved(folder: Path) -> Iterator[tuple[str, Found]]:
    """Rows of a folder that `save_to_disk` wrote. Raises DataError, also when it holds several splits."""
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits")
        if len(splits) != 1:
            expected = f"expected one of its splits, such as {folder / splits[0]}" if splits else "expected splits"
            raise DataError(f"{folder}: {expected}, got a folder of {len(splits)}")
        yield from saved(folder / splits[0])
        return
    for name in _listed(folder / "state.json", "_data_files"):
        try:
            opened = (folder / name).open("rb")
        except OSError as error:
            expected = f"expected the part that {folder / 'state.json'} lists"
            raise DataError(f"{folder / name}: {expected}, got: {error.strerror}") from None
        with opened as file:
            yield from _arrow(folder / name, file)


def _listed(file: Path, field: str) -> list[str]:
    """Names of files in the same folder, as listed in `file`."""
    try:
        values = json.loads(file.read_bytes())[field]
        names = [value if isinstance(value, str) else value["filename"] for value in values]
        if all(Path(name).name == name for name in names):
            return names
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise DataError(f"{file}: {field}: expected the names of what lies beside it")


def _parquet(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Found]]:
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        yield from pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=_ROWS)

    return _rows(path, batches())


def _arrow(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Found]]:
    import pyarrow

    def batches() -> Iterator[Any]:
        if file.peek(6).startswith(b"ARROW1"):
            whole = pyarrow.ipc.open_file(file)
            found: Iterable[Any] = (whole.get_batch(i) for i in range(whole.num_record_batches))
        else:
            found = pyarrow.ipc.open_stream(file)
        for batch in found:
            for start in range(0, batch.num_rows, _ROWS):
                yield batch.slice(start, _ROWS)

    return _rows(path, batches())


def _rows(path: Path, batches: Iterator[Any]) -> Iterator[tuple[str, Found]]:
    """("file:row", row) of record batches, counted from 1. Raises DataError when Arrow can't read them."""
    import pyarrow

    number = 0
    try:
        for batch in batches:
            for found in _batch(batch):
                number += 1
                where = f"{path}:{number}"
                if isinstance(found, str):
                    yield where, RecordError(f"{where}: expected a row, got: {found}", Reason.MALFORMED)
                else:
                    yield where, {name: value for name, cell in found.items() if (value := plain(cell)) is not None}
    # MemoryError: a damaged length can be that of any number of bytes.
    except (pyarrow.ArrowException, MemoryError, OSError) as error:
        raise DataError(f"{path}: expected a whole table, got: {one_line(error)}") from None


def _batch(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Rows of the batch; a row with an invalid cell, such as text that is not UTF-8, is replaced by its error."""
    try:
        yield from batch.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            yield one_line(error)
            return
        for i in range(batch.num_rows):
            yield from _batch(batch.slice(i, 1))


def plain(cell: Any) -> Any:
    """A cell as a JSON value; None if there is none, as for images."""
    if isinstance(cell, dict):
        return {str(name): value for name, each in cell.items() if (value := plain(each)) is not None}
    if isinstance(cell, list):
        return [plain(each) for each in cell]
    if isinstance(cell, bytes):  # some tools write text as bytes
        try:
            return cell.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(cell, Decimal | date | time):
        return str(cell)
    if isinstance(cell, float) and not math.isfinite(cell):
        return None  # pandas writes NaN for null
    return cell if isinstance(cell, str | int | float) else None


def _delimiter(path: Path) -> str | None:
    names = [suffix.lower() for suffix in path.suffixes]
    if names and names[-1] in SUFFIXES:
        names.pop()
    return _DELIMITERS.get(names[-1]) if names else None


class _Lines:
    """Lines of a table in text, which can be read again from any line of the current row."""

    def __init__(self, text: Iterable[str]) -> None:
        self.row: list[str] = []
        """Lines of the current row so far."""
        self.first = 1
        """Number of the current row's first line."""
        self.is_again = False
        """Whether the current row begins in a line that an earlier row had swallowed."""
        self._text = iter(text)
        self._again: deque[str] = deque()
        self._reread = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._text)
        self.row.append(line)
        return line

    def begin(self) -> None:
        """Begin a row with the next line."""
        self.first += len(self.row)
        self.row = []
        self.is_again = bool(self._again)

    def resume(self) -> bool:
        """Read all lines of the current row but the first again. False if too much has been: rows have no ends."""
        swallowed = self.row[1:]
        self._reread += sum(map(len, swallowed))
        self._again.extendleft(reversed(swallowed))
        del self.row[1:]
        return self._reread <= _MOST_REREAD


def _delimited(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Found]]:
    """Rows of a table in text. Behind a bad one reading resumes on the next line: its open quote may have swallowed
    good rows.
    """
    csv.field_size_limit(_LONGEST_CELL)
    # Invalid UTF-8 concerns one row; it is decoded to lone surrogates, which valid UTF-8 never contains.
    lines = _Lines(io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=""))
    delimiter = _delimiter(path) or ","
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        lines.begin()
        where = f"{path}:{lines.first}"
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if names is None:
                raise DataError(f"{where}: expected the names of columns, got: {error}") from None
            fault: str | None = f"expected a row, got: {_reason(error, lines)}"
        else:
            if names is None:
                names = cells
                _check_names(names, delimiter, where)
                continue
            if not cells:
                continue
            fault = None
            if len(cells) != len(names):
                fault = f"expected {len(names)} cells, as there are columns, got {len(cells)}"
            elif lines.is_again and not _is_strict("".join(lines.row), delimiter):
                fault = "expected a row, got a quote within a cell, behind a row whose quotes are not closed"
        if fault is None:
            yield where, _cells(names, cells, where)
            continue
        if not lines.resume():
            raise DataError(f"{where}: expected quotes that show where rows end, got one that nothing closes")
        yield where, RecordError(f"{where}: {fault}", Reason.MALFORMED)


def _reason(error: csv.Error, lines: _Lines) -> str:
    last = lines.first + len(lines.row) - 1
    if "unexpected end" in str(error):
        return "a quoted cell that nothing closes"
    return f"{error} in line {last}" if last > lines.first else str(error)


def _check_names(names: list[str], delimiter: str, where: str) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{where}: expected columns of different names, got {', '.join(names)}")
    if len(names) == 1 and (other := next((each for each in _SEPARATORS if each in names[0]), None)):
        raise DataError(
            f"{where}: expected columns separated by {delimiter!r}, as the file's name says, got {other!r} between "
            f"them: {shown(names[0])}"
        )


def _is_strict(row: str, delimiter: str) -> bool:
    """Whether quotes stand only around whole cells (RFC 4180, section 2.5)."""
    cell = rf'(?:"(?:[^"]|"")*+"|[^"{delimiter}]*+)'
    return re.fullmatch(rf"{cell}(?:{delimiter}{cell})*+", row.rstrip("\r\n")) is not None


def _cells(names: list[str], cells: list[str], where: str) -> Found:
    if bad := re.search("[\udc80-\udcff]", "".join(cells)):
        message = f"{where}: expected UTF-8, got byte {ord(bad[0]) - 0xDC00:#04x}"
        return RecordError(message, Reason.MALFORMED)
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=True):
        if not cell:
            continue
        try:
            row[name] = _json(cell) if name in _AS_JSON else cell
        except (ValueError, RecursionError) as error:
            message = f"{where}: {name}: expected JSON, got: {one_line(error)}"
            return RecordError(message, Reason.INVALID_FIELD)
    return row


def _json(cell: str) -> Any:
    value = json.loads(cell, parse_constant=float)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # escapes can spell lone surrogates
    return value
