"""The house: every import points down the order of rooms, no module is in a circle, and the rooms stay small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = (
    "commands bridges public",
    "loop cluster",
    "stages actors",
    "report",
    "pairing evaluation",
    "annotation",
    "models",
    "training",
    "store",
    "config",
    "data",
    "terminal records",
    "errors",
)
"""From the top down; rooms on one floor don't import each other. docs/architecture.md draws them.

`public` is the package itself, `maskdpo_ray/__init__.py`: its names come from any room but the commands, and no module
of ours imports it.
"""
COMMANDS = set(
    "__main__ analyze anah_templates annotate build_questions check_annotator check_objective evaluate experiment "
    "export pairs plan report run train watch".split()
)
BRIDGES = {"openrlhf", "trl"}
"""Modules that users of other trainers import: like a command each is an entry, which no module of ours imports."""
FLOOR_OF = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    files = [file for package in ("maskdpo_ray", "actors") for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def room(module: str) -> str:
    """Room that a module lies in."""
    package, *rest = module.split(".")
    if package == "actors":
        return "actors"
    if not rest:
        return "public"
    if rest[-1] == "__main__":  # `python -m maskdpo_ray.report`: a command that has the name of its room
        return "commands"
    if len(rest) > 1 or modules()[module].name == "__init__.py":
        return rest[0]
    return "commands" if rest[0] in COMMANDS else "bridges" if rest[0] in BRIDGES else rest[0]


@cache
def imports(module: str) -> dict[str, int]:
    """Our modules that a module imports -> line: at its top, within functions and for type checkers alike."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _named(node):
                if name != module:
                    found.setdefault(name, node.lineno)
    return found


def _named(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        module = getattr(node, "module", None)
        whole = f"{module}.{alias.name}" if module else alias.name
        if whole in modules():
            yield whole
        elif module in modules():
            yield str(module)


def arrows() -> Iterator[tuple[str, str, str]]:
    """(importing module, imported one, file:line)."""
    for module, file in modules().items():
        for imported, line in imports(module).items():
            yield module, imported, f"{file.relative_to(ROOT)}:{line}"


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in modules()} <= FLOOR_OF.keys()


def test_every_import_points_down() -> None:
    upward = [
        f"{where}: {room(module)} imports {room(imported)} ({imported})"
        for module, imported, where in arrows()
        if room(module) != room(imported) and FLOOR_OF[room(imported)] >= FLOOR_OF[room(module)]
    ]
    assert not upward, "\n".join(["these point up or across:", *upward])


def test_no_command_imports_another() -> None:
    between = [
        where
        for module, imported, where in arrows()
        if {room(module), room(imported)} == {"commands"} and not module.endswith("__main__")
    ]
    assert not between


def test_no_circle() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_rooms_are_small() -> None:
    """At most 20 files in a folder; at the root there are commands, bridges, rooms and at most five modules."""
    sizes: dict[Path, int] = {}
    for module, file in modules().items():
        if file.name != "__init__.py" and room(module) not in ("commands", "bridges"):
            sizes[file.parent] = sizes.get(file.parent, 0) + 1
    assert not {str(folder): count for folder, count in sizes.items() if count > 20}
    assert sizes[ROOT / "maskdpo_ray"] <= 5


def test_a_unit_test_lies_in_the_room_of_what_it_tests() -> None:
    """Name of a test file: that of a module, and an aspect of it where there are several files."""
    strays = []
    for file in (ROOT / "tests/unit").rglob("test_*.py"):
        folder = file.parent.name if file.parent != ROOT / "tests/unit" else ""
        if folder in ("benchmarks", "scripts"):
            names = {path.stem for path in (ROOT / folder).glob("*.*")}
        else:
            names = {
                module.split(".")[-1]
                for module in modules()
                if (room(module) == folder if folder else module.count(".") == 1)
            }
        name = file.stem.removeprefix("test_")
        if not any(name == each or name.startswith(f"{each}_") for each in names):
            strays.append(str(file.relative_to(ROOT)))
    # These are about the whole tree.
    assert sorted(strays) == [
        f"tests/unit/test_{name}.py" for name in ("api", "deploy", "house", "imports", "language", "paper", "recipes")
    ]


def test_the_map_names_what_is_there() -> None:
    """Every `file.py`, `file.py::Class.method` and `folder/` of docs/architecture.md, and the order of its rooms."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w/.]+\.py)(?:::([\w.]+))?`", text)
    assert len(names) > 60
    absent = [f"{path}::{name}" for path, name in names if not _is_there(path, name)]
    absent += [folder for folder in re.findall(r"`([\w/]+/)`", text) if not _found(folder)]
    assert not absent, "not there: " + ", ".join(absent)
    table = text.split("## The house")[1].split("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ") and "commands" not in line]
    drawn = [name for row in rows for name in re.findall(r"`(\w+)", row)]
    floors = [FLOOR_OF[name] for name in drawn]
    assert floors == sorted(floors, reverse=True) and set(drawn) | {"commands", "bridges", "public"} == FLOOR_OF.keys()


def _found(path: str) -> Path | None:
    return next((at for at in (ROOT / "maskdpo_ray" / path, ROOT / path) if at.exists()), None)


def _is_there(path: str, name: str) -> bool:
    file = _found(path)
    body = ast.parse(file.read_text(encoding="utf-8")).body if file else None
    for part in name.split(".") if name else ():
        found = next((node for node in body or () if part in _defined(node)), None)
        body = None if found is None else getattr(found, "body", [])
    return body is not None


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.AnnAssign | ast.Assign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return [getattr(node, "name", "")]
