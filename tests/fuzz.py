"""Files as nobody writes them: arbitrary bytes, and good files with a few things wrong.

What reads a file may refuse it with a UserError of one line, soon, and do nothing else.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskdpo_ray.errors import UserError, line

DEEP = "[" * 3000 + "]" * 3000
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 7, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "a", "\x00", "\x1b[2J", "\ud800", "a\nb", "../../x", "/x", "x" * 3000, DEEP),
    *([], [[]], {}, {"a": 1}, [1, "a"]),
)
SECONDS = 20.0
"""Deadline for one file; all are small and take milliseconds, but a machine may be busy."""


@st.composite
def files(draw: st.DrawFn, good: bytes, lines: bool = True) -> bytes:
    """Any bytes, `good` with bytes changed or, where it is JSON (or `lines` of it), `good` with values changed."""
    kind = draw(st.sampled_from(["bytes", "edits", "values", "values"]))
    if kind == "bytes":
        return draw(st.binary(max_size=80))
    values = _parsed(good, lines)
    if kind == "edits" or values is None:
        data = bytearray(good)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(data)))
            data[at : at + draw(st.sampled_from([0, 1, 1, 4, 40]))] = draw(
                st.one_of(st.just(b""), st.binary(min_size=1, max_size=3), st.sampled_from(SPLICES))
            )
        return bytes(data)
    for _ in range(draw(st.integers(1, 2))):
        values = _changed(draw, values)
    return _written(values if lines else values[:1])


SPLICES = (b"\xff", b"\x00", b"\n", b'"', b"{", b"]", b"1" * 5000, b"&a *a", b"!!int x", b"\xef\xbb\xbf", b": ", b"- ")


def one_odd_value(good: bytes, lines: bool) -> Iterator[bytes]:
    """`good`, if it is JSON, with one of its values replaced: each place has its turn, with two of `ODD`, up to 100."""
    values = _parsed(good, lines) or []
    places = list(_places(values))
    for turn in range(2):
        for i in range(0, len(places), 1 + len(places) // 50):
            changed = copy.deepcopy(values)
            *parents, last = places[i]
            at: Any = changed
            for key in parents:
                at = at[key]
            at[last] = ODD[(11 * i + 5 * turn) % len(ODD)]
            yield _written(changed)


def _parsed(good: bytes, lines: bool) -> list[Any] | None:
    try:
        return [json.loads(line) for line in good.splitlines()] if lines else [json.loads(good)]
    except ValueError:
        return None


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _changed(draw: st.DrawFn, values: list[Any]) -> list[Any]:
    """With a value replaced, removed, doubled or renamed."""
    values = copy.deepcopy(values)
    places = list(_places(values))
    if not places:
        return values
    *parents, last = draw(st.sampled_from(places))
    at: Any = values
    for key in parents:
        at = at[key]
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "more"]))
    if how == "replace":
        at[last] = draw(st.sampled_from(ODD))
    elif how == "remove":
        del at[last]
    elif isinstance(at, list):
        at.insert(last, copy.deepcopy(at[last]))
    else:
        at[draw(st.sampled_from(["a", "../x", "\x1b", ""]))] = at[last]
    return values


def _written(values: list[Any]) -> bytes:
    # A list deeper than json writes stands as its own text.
    return "".join(json.dumps(value).replace(json.dumps(DEEP), DEEP) + "\n" for value in values).encode()


def check(read: Callable[[bytes], object], good: bytes, lines: bool = True, examples: int = 60) -> None:
    """Read `good`, then what `one_odd_value` and `files` make of it."""
    read(good)
    for data in one_odd_value(good, lines):
        _refused_or_read(read, data)

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
    @given(files(good, lines))
    def each(data: bytes) -> None:
        _refused_or_read(read, data)

    each()


def _refused_or_read(read: Callable[[bytes], object], data: bytes) -> None:
    start = time.monotonic()
    try:
        read(data)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        assert line(error).isprintable() and len(line(error)) <= 1000
    assert time.monotonic() - start < SECONDS


def from_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A reader of files as one of bytes."""

    def read_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return read_bytes
