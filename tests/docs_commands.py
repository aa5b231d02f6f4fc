"""Commands that the documentation shows: found in its shell blocks and inline code, and split as bash splits them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHELL = ("bash", "sh")
_INLINE = re.compile(r"(?<!`)`(?P<command>(?:PYTHONPATH=\. )?(?:python |\.venv/bin/|maskdpo |bash )[^`]+)`(?!`)")
_MODULE = re.compile(r"maskdpo_ray\.(?P<name>[a-z_]+(?:\.[a-z_]+)*)$")


@dataclass(frozen=True)
class Shown:
    """A command of a page."""

    where: str
    """Page and line."""
    words: tuple[str, ...]
    output: tuple[str, ...] = ()
    """Lines that a console shows below it, but for "..."."""

    @property
    def module(self) -> str | None:
        """Dotted name below maskdpo_ray of the module that it runs, however it is started; None: another program."""
        for before, word in zip(self.words, self.words[1:], strict=False):
            if before in ("-m", "--module") and (found := _MODULE.match(word)):
                return found["name"]
        return self.words[1] if self.words[0] == "maskdpo" and len(self.words) > 1 else None

    @property
    def arguments(self) -> list[str]:
        """Words behind the module's name."""
        first = 1 if self.words[0] == "maskdpo" else self.words.index(f"maskdpo_ray.{self.module}")
        return list(self.words[first + 1 :])

    @property
    def script(self) -> str | None:
        """Script of the repository that it runs."""
        words = [word for word in self.words if "=" not in word]
        named = words[1:2] if words[0] in ("bash", "python", ".venv/bin/python") else words[:1]
        return next((word for word in named if word.endswith((".py", ".sh"))), None)


def pages() -> list[Path]:
    """Markdown files for users and contributors."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown() -> list[Shown]:
    """Every command of every page."""
    return [each for page in pages() for each in _of_page(page)]


def _of_page(page: Path) -> Iterator[Shown]:
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT)
    for block in re.finditer(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(2)) + 1
        if block[1] == "console":
            for said in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[2], flags=re.MULTILINE):
                output = tuple(each.strip() for each in said[2].splitlines() if each != "...")
                where = f"{name}:{line + block[2].count(chr(10), 0, said.start())}"
                yield from (replace(each, output=output) for each in _split(where, said[1]))
        elif block[1] in SHELL:
            for offset, command in _commands(block[2]):
                yield from _split(f"{name}:{line + offset}", command)
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    for found in _INLINE.finditer(prose):
        yield from _split(f"{name}:{prose.count(chr(10), 0, found.start()) + 1}", " ".join(found["command"].split()))


def _commands(block: str) -> Iterator[tuple[int, str]]:
    """(line, command) of a block, continued lines joined."""
    lines, number = block.splitlines(), 0
    while number < len(lines):
        first, command = number, lines[number]
        while command.endswith("\\") or _is_open(command):
            number += 1
            command = f"{command.removesuffix(chr(92))} {lines[number]}"
        number += 1
        yield first, command


def _is_open(command: str) -> bool:
    """Whether a quotation goes beyond the line."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def _split(where: str, line: str) -> Iterator[Shown]:
    """Commands of a line: those joined by a pipe, && or ;, and one that another takes as a text."""
    words: list[str] = []
    for word in [*_words(line), ";"]:
        if word in ("|", "&&", ";", "||", ">", "<"):
            if words:
                yield Shown(where, tuple(words))
            words = []
        elif " " in word and "maskdpo_ray." in word:  # a command in quotes
            yield from _split(where, word)
        else:
            words.append(word)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(lexer)
