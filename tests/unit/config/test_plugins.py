"""Functions that a config names: which options they take, by their signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pytest

from maskdpo_ray.config.plugins import FunctionSlot, listed
from maskdpo_ray.config.schema import Rule
from maskdpo_ray.errors import ConfigError

SLOT = FunctionSlot("room.name", "room.options", {"join": ("posixpath", "join")}, ("first",))
Even = Annotated[int | None, Rule("an even number", lambda number: number % 2 == 0)]


def typed(
    first: object,
    number: float = 0.5,
    count: Even = None,
    word: Literal["a", "b"] = "a",
    *,
    is_on: bool = False,
    other: Sequence[int] = (),
) -> None: ...


def closed(first: object) -> None: ...


def required(first: object, size: int) -> None: ...


def unreadable(first: object, size: Nowhere = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def unannotated(first, size=1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """An argument that may be anything."""


def anything(first: object, **options: Any) -> None: ...


def too_few() -> None: ...


def by_name_only(*, first: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (typed, None),
        (typed, {}),
        (typed, {"number": 1, "count": 4, "word": "b", "is_on": True, "other": [1, 2]}),
        (typed, {"number": 0.25, "count": None}),
        (closed, {}),
        (required, {"size": 3}),
        (unannotated, {"size": "large"}),
        (anything, {"size": 3, "word": "c"}),
    ],
)
def test_options_that_a_function_takes(function: Callable[..., None], options: dict[str, Any] | None) -> None:
    assert SLOT.check_options(function, options) == (options or {})


@pytest.mark.parametrize(
    ("function", "options", "line"),
    [
        (typed, {"number": "1"}, "room.options: typed: number: expected a number, got '1'"),
        (typed, {"number": True}, "room.options: typed: number: expected a number, got True"),
        (typed, {"count": 3}, "room.options: typed: count: expected an even number, got 3"),
        (typed, {"count": 2.0}, "room.options: typed: count: expected a whole number or none, got 2.0"),
        (typed, {"word": "c"}, "room.options: typed: word: expected one of a, b, got 'c'"),
        (typed, {"is_on": 1}, "room.options: typed: is_on: expected true or false, got 1"),
        (typed, {"nmber": 1}, "expected one of number, count, word, is_on, other; got 'nmber'; did you mean number?"),
        (typed, {"first": 1}, "expected one of number, count, word, is_on, other; got 'first'"),
        (closed, {"size": 1}, "room.options: closed: closed takes none; got 'size'"),
        (required, {}, "room.options: required: expected size, which has no default"),
        (unreadable, {"size": 1}, "room.options: unreadable: size: can't read its annotation Nowhere: NameError: "),
        (too_few, {}, "room.name: expected a function of (first, ...), got too_few()"),
        (by_name_only, {}, "room.name: expected a function of (first, ...), got by_name_only(*, first: 'object')"),
    ],
)
def test_options_that_are_refused(function: Callable[..., None], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        SLOT.check_options(function, options)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_names_and_pythons_own() -> None:
    import posixpath

    assert SLOT.find("join") is SLOT.find("python:posixpath:join") is posixpath.join
    for name, line in (
        ("joni", "room.name: expected one of join, python:package.module:function; got 'joni'; did you mean join?"),
        ("python:posixpath:sep", "room.name: expected a function sep in posixpath, got '/'"),
        ("python:posixpath", "room.name: expected one of join, python:package.module:function; got 'python:posixpath'"),
    ):
        with pytest.raises(ConfigError) as error:
            SLOT.find(name)
        assert str(error.value) == line


def test_modules_of_a_folder_are_listed_by_name() -> None:
    found = listed("maskdpo_ray.training.objectives")
    assert found["dpo"] == ("maskdpo_ray.training.objectives.dpo", "dpo")
    assert "protocol" not in found and list(found) == sorted(found)
