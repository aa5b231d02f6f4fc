"""The file of an experiment: a config, what each arm changes in it, the seeds, and what the paper has to compare with.

base: ../quickstart.yaml                 # a config; all it leaves open is at its default
options: {data: {max_questions: 48}}     # of every arm, over the base
seeds: [1, 2, 3]                         # each arm is run with each of them as run.seed
arms:
  masked: {}
  unmasked: {mask.policy: vanilla}       # or {mask: {policy: vanilla}}
baseline: unmasked                       # which the others are compared with; by default the first
paper:                                   # an arm's row of the paper, in our metrics
  masked: {table: Mask-DPO table 2, score: 0.7753}
direction: {above: masked, below: unmasked, metric: score}
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskdpo_ray.config import suggestions
from maskdpo_ray.config.file import (
    Given,
    build,
    document,
    entries,
    given_option,
    located,
    options,
    read_values,
    sections,
    unknown_field,
    value_of,
)
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, require

_KEYS = ("base", "options", "seeds", "arms", "baseline", "paper", "direction")
_OURS = ("run.name", "run.dir", "run.seed")
"""Options that the experiment gives each run."""
_NAME = re.compile(r"[\w][\w.+-]*")
"""Name of an arm: a part of a folder's name on any system."""


@dataclass(frozen=True)
class PaperRow:
    """An arm's row of the paper."""

    table: str
    """Paper and table that it stands in."""
    figures: dict[str, float]
    """Metric -> value."""


@dataclass(frozen=True)
class Direction:
    """Claim of the paper: one arm above another one by a metric."""

    above: str
    below: str
    metric: str


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed: a run in a folder of its own."""

    arm: str
    seed: int
    config: Config
    given: dict[str, Given]
    """Values that were given for its options, and their places."""

    @property
    def name(self) -> str:
        """Name of the run and its folder."""
        return run_name(self.arm, self.seed)


@dataclass(frozen=True)
class Experiment:
    """Contents of the file of an experiment; every arm's options are valid together."""

    file: Path
    folder: Path
    """Folder of the experiment."""
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    baseline: str
    paper: dict[str, PaperRow]
    """Arm -> row."""
    direction: Direction | None
    runs: tuple[ArmRun, ...]
    """By seed, then in the order of the arms: what is there early compares all of them."""

    @property
    def name(self) -> str:
        """Name of the experiment and its folder."""
        return self.folder.name


def run_name(arm: str, seed: int) -> str:
    """Name of the run of an arm with a seed."""
    return f"{arm}-seed{seed}"


def read(file: Path, root: Path, metrics: Collection[str]) -> Experiment:
    """Read the file of an experiment whose folder is in `root`, under the file's name.

    Args:
        metrics: names that `paper` and `direction` may have.

    Raises ConfigError, one line with the file and line of the fault.
    """
    keys = _keys(document(file, str(file), _EXPECTED), file, "", _EXPECTED, _KEYS)
    for needed in ("base", "seeds", "arms"):
        if needed not in keys:
            raise ConfigError(f"{file}: {needed}: expected {_EXPECTED_OF[needed]}, got nothing")
    place, node = keys["base"]
    target = Path(os.path.normpath(file.parent / value_of(node, str, place)))
    if not target.is_file():
        raise ConfigError(f"{place}: expected a config file, got {str(target)!r}, which is none")
    base, _ = read_values(target)
    common = _options(*keys["options"], file) if "options" in keys else {}
    arms = {}
    place, node = keys["arms"]
    for arm, where, changed in _named(node, file, place, _EXPECTED_OF["arms"]):
        if not _NAME.fullmatch(arm) or len(arm) > 100:
            expected = (
                "a name of letters, digits, '_', '-', '+' and '.', at most 100, that begins with one of the first"
            )
            raise ConfigError(f"{where}: expected {expected} (it names folders)")
        arms[arm] = _options(where, changed, file)
    place, node = keys["seeds"]
    seeds = _seeds(node, place)
    folder = root / file.stem
    if not _NAME.fullmatch(file.stem):
        raise ConfigError(f"{file}: expected a file name that can name a folder, got {file.stem!r}")
    runs = tuple(
        _run(file, folder / "runs", arm, seed, {**base, **common, **changed})
        for seed in seeds
        for arm, changed in arms.items()
    )
    baseline = next(iter(arms))
    if "baseline" in keys:
        place, node = keys["baseline"]
        baseline = _one_of(value_of(node, str, place), arms, place, "arm")
    paper = _paper(*keys["paper"], file, arms, metrics) if "paper" in keys else {}
    direction = _direction(*keys["direction"], file, arms, metrics) if "direction" in keys else None
    return Experiment(file, folder, seeds, tuple(arms), baseline, paper, direction, runs)


_EXPECTED = f"an experiment ({', '.join(_KEYS)})"
_EXPECTED_OF = {
    "base": "a config file, relative to this one's folder",
    "seeds": "a list of different whole numbers, as [1, 2, 3]",
    "arms": "a mapping {arm: {section: {option: value}}}",
}


def _keys(
    node: yaml.Node, file: Path, where: str, expected: str, known: Collection[str]
) -> dict[str, tuple[str, yaml.Node]]:
    """Key -> (file:line: key, value) of a mapping with known keys."""

    def unknown(key: str) -> str | None:
        if key in known:
            return None
        hint = suggestions.sentence(difflib.get_close_matches(key, known, n=1, cutoff=0.6))
        return f"{where}{'.' if where else ''}{key}: unknown key{hint or '; known: ' + ', '.join(known)}"

    line = node.start_mark.line + 1
    return {
        key: (f"{file}:{at}: {where}{'.' if where else ''}{key}", value)
        for key, at, value in entries(node, file, expected, where, unknown, line)
    }


def _named(node: yaml.Node, file: Path, place: str, expected: str) -> list[tuple[str, str, yaml.Node]]:
    """(name, file:line: key.name, value) of a mapping with names of the user's."""
    where = place.rpartition(": ")[2]
    found = entries(node, file, expected, where, lambda _: None, node.start_mark.line + 1)
    named = [(name, f"{file}:{line}: {where}.{name}", value) for name, line, value in found]
    if not named:
        raise ConfigError(f"{place}: expected {expected}, got none")
    return named


def _options(place: str, node: yaml.Node, file: Path) -> dict[str, Given]:
    """Dotted option -> value of {section: {option: value}} or {section.option: value}."""
    where = place.rpartition(": ")[2]

    def unknown(key: str) -> str | None:
        if key in sections() or key in options():
            return None
        section, _, field = key.partition(".")
        if section in sections() and field:
            return unknown_field(section)(field)
        found = suggestions.of_section(key, [*sections()], options())
        return f"{where}: {key}: unknown section or option{suggestions.sentence(found)}"

    given: dict[str, Given] = {}
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return given  # `masked:`, which changes nothing

    def take(name: str, at: str, value: yaml.Node) -> None:
        if name in _OURS:
            raise ConfigError(f"{at}: expected no such option, as the experiment gives each run its own")
        if name in given:
            raise ConfigError(f"{at}: given twice, first in {given[name].where}")
        given[name] = given_option(value, name, at)

    expected = "a mapping {section: {option: value}}"
    for key, line, block in entries(node, file, expected, where, unknown, node.start_mark.line + 1):
        if key in options():
            take(key, f"{file}:{line}: {key}", block)
            continue
        for field, at, value in entries(block, file, "a mapping of options", key, unknown_field(key), line):
            take(f"{key}.{field}", f"{file}:{at}: {key}.{field}", value)
    return given


def _seeds(node: yaml.Node, place: str) -> tuple[int, ...]:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    seeds = tuple(value_of(item, int, f"{place}[{number}]") for number, item in enumerate(items))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{place}: expected {_EXPECTED_OF['seeds']}, got {list(seeds) if seeds else 'none'}")
    return seeds


def _run(file: Path, folder: Path, arm: str, seed: int, given: Mapping[str, Given]) -> ArmRun:
    own = {"run.name": run_name(arm, seed), "run.dir": str(folder), "run.seed": seed}
    every = {**given, **{name: Given(value, f"{file}: {name}") for name, value in own.items()}}
    config = build(every, file)
    with located(every, file):
        require(config.hub.push is None, "hub.push", "none in an experiment, whose runs would all be uploaded", True)
    return ArmRun(arm, seed, config, every)


def _one_of(name: str, known: Collection[str], place: str, what: str) -> str:
    if name not in known:
        near = suggestions.sentence(difflib.get_close_matches(name, known, n=1, cutoff=0.6))
        raise ConfigError(f"{place}: expected the {what} {' or '.join(known)}, got {name!r}{near}")
    return name


def _paper(
    place: str, node: yaml.Node, file: Path, arms: Collection[str], metrics: Collection[str]
) -> dict[str, PaperRow]:
    rows = {}
    for arm, where, row in _named(node, file, place, "a mapping {arm: {table: text, metric: number}}"):
        _one_of(arm, arms, where, "arm")
        known = ("table", *metrics)
        cells = _keys(row, file, where.rpartition(": ")[2], "a mapping {table: text, metric: number}", known)
        if "table" not in cells or len(cells) < 2:
            raise ConfigError(f"{where}: expected table, and a figure or more, got {', '.join(cells) or 'none'}")
        at, table = cells.pop("table")
        figures = {name: value_of(cell, float, at) for name, (at, cell) in cells.items()}
        rows[arm] = PaperRow(value_of(table, str, at), figures)
    return rows


def _direction(place: str, node: yaml.Node, file: Path, arms: Collection[str], metrics: Collection[str]) -> Direction:
    names = ("above", "below", "metric")
    expected = "a mapping {above: arm, below: arm, metric: name}"
    keys = _keys(node, file, "direction", expected, names)
    if missing := [name for name in names if name not in keys]:
        raise ConfigError(f"{place}.{missing[0]}: expected {expected}, got nothing")
    values: dict[str, Any] = {name: value_of(value, str, at) for name, (at, value) in keys.items()}
    for name in names:
        at = keys[name][0]
        _one_of(values[name], metrics if name == "metric" else arms, at, "metric" if name == "metric" else "arm")
    if values["above"] == values["below"]:
        raise ConfigError(f"{keys['below'][0]}: expected another arm than direction.above, got {values['below']!r}")
    return Direction(**values)
