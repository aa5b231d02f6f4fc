"""Docstrings begin with a noun or a verb; words that a native engineer would not write don't come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    file
    for folder in ("maskdpo_ray", "actors", "benchmarks", "scripts")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOT_FIRST = set("Of That What Whose Where As Its Their".split())
NOT_AT_ALL = r"\b(goes on|borne|evil|third person|given up|gives? up|gave up|let pass)\b"


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of modules, classes, functions, and of the fields and constants above them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text.split(chr(10))[0]}"
        for file in [*SOURCES, *TESTS]
        for line, text in docstrings(file)
        if re.split(r"\W", text.strip(), maxsplit=1)[0] in NOT_FIRST
    ]
    assert not found, "\n".join(found)


def test_plain_words() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text.strip()}"
        for file in [*SOURCES, *pages]
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(NOT_AT_ALL, text)
    ]
    assert not found, "\n".join(found)
