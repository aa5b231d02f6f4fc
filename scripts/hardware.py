#!/usr/bin/env python3
"""The table of docs/hardware.md: each config of configs/hardware, and what `python -m maskdpo_ray.plan` says of it.

PYTHONPATH=. python scripts/hardware.py > table.md, or with --write into docs/hardware.md itself.

A config's first line is its title, and its second one the command, with the machines that it is made for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from maskdpo_ray import plan

ROOT = Path(__file__).parents[1]
FOLDER, DOCS = ROOT / "configs" / "hardware", ROOT / "docs" / "hardware.md"
BEGIN, END = "<!-- python scripts/hardware.py --write -->", "<!-- end -->"
_COMMAND = "python -m maskdpo_ray.plan "
_VERDICT = re.compile(r"^(?P<group>[^:]+): (?P<verdict>fits|DOES NOT FIT), (?P<size>[0-9,.]+) of (?P<has>[0-9,.]+) GiB")
_COLUMNS = {
    "a rank": ("training ranks", "all actors"),
    "an engine": ("rollout engines",),
    "a node's memory": ("a node's own memory",),
    "disk": ("the run folder's disk",),
}
"""Column -> the groups that `plan` has for it. On a CPU there is one sum for all actors."""


def presets() -> list[Path]:
    """Configs, the smallest machines first."""

    def size(file: Path) -> tuple[int, int]:
        number = re.match(r"(?:(\d+)x)?(\d+)gb", file.stem)
        return (int(number[1] or 1), int(number[2])) if number else (0, 0)

    return sorted(FOLDER.glob("*.yaml"), key=lambda file: (*size(file), file.stem))


def title(file: Path) -> str:
    """First line of a config."""
    return _comments(file)[0]


def command(file: Path) -> list[str]:
    """Words of the command in a config's second line, after the module. Raises ValueError where there is none."""
    line = _comments(file)[1]
    if not line.startswith(_COMMAND):
        raise ValueError(f"{file}:2: expected '# {_COMMAND}...', got {line!r}")
    return shlex.split(line.removeprefix(_COMMAND))


def _comments(file: Path) -> list[str]:
    return [line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines()[:2]]


def said(words: Sequence[str]) -> str:
    """Standard output of `plan`, whatever its verdict."""
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        plan.main(list(words))
    return output.getvalue()


def row(file: Path) -> list[str]:
    """Cells of a config: its link, what it is for, GiB by column, and whether all fits."""
    words = command(file)
    lines = said(words).splitlines()
    found = {match["group"]: match for line in lines if (match := _VERDICT.match(line))}
    sizes = []
    for groups in _COLUMNS.values():
        each = next((found[group] for group in groups if group in found), None)
        sizes.append(f"{_whole(each['size'])} of {_whole(each['has'])}" if each else "-")
    if "all actors" in found:
        sizes[1] = "with it"  # its KV cache has a line of its own
    gpus = next((line for line in lines if line.startswith("GPUs: ")), "")
    fits = found and all(each["verdict"] == "fits" for each in found.values()) and "NOT ENOUGH" not in gpus
    name = file.relative_to(ROOT)
    return [f"[{file.stem}](../{name})", title(file), *sizes, "fits" if fits else "**does not fit**"]


def _whole(size: str) -> str:
    return f"{float(size.replace(',', '')):,.0f}"


def table() -> str:
    """The table, as Markdown."""
    header = ["preset", "for", *(f"{column}, GiB" for column in _COLUMNS), "`plan`"]
    rows = [header, ["---"] * len(header), *map(row, presets())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def written(text: str, made: str) -> str:
    """The document with another table between its marks. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCS}: expected the lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{made}\n{end}{after}"


def main(argv: Sequence[str]) -> None:
    """Print the table or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/hardware.md")
    if parser.parse_args(argv).write:
        DOCS.write_text(written(DOCS.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    with contextlib.chdir(ROOT):
        main(sys.argv[1:])
