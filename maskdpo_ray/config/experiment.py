"""The file of an experiment: a config, what each arm changes in it, the seeds, and what the paper has to compare with.

base: ../quickstart.yaml                 # a config; all it leaves open is at its default
options: {data: {max_questions: 48}}     # of every arm, over the base
seeds: [1, 2, 3]                         # each arm is run with each of them as run.seed
arms:
  masked: {}
  unmasked: {mask.policy: vanilla}       # or {mask: {policy: vanilla}}
  tdpo: {recipe: ../recipes/tdpo.yaml}   # what a config gives over the last of its bases, and further options
  sepo: {mask.oracle: "arm:unmasked"}    # a model: the policy of an earlier arm with the same seed
baseline: unmasked                       # which the others are compared with; by default the first
paper:                                   # an arm's row of the paper, in our metrics
  masked: {table: Mask-DPO table 2, score: 0.7753}
direction: {above: masked, below: unmasked, metric: score}    # or a list of these

A file that begins with `experiment: OTHER.yaml` has that one's keys where it gives none.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from maskdpo_ray.config.schema import MODEL, Config, marked
from maskdpo_ray.errors import ConfigError, require

_OTHER = "experiment"
"""Key that names another file of an experiment."""
_KEYS = (_OTHER, "base", "options", "seeds", "arms", "baseline", "paper", "direction")
_RECIPE = "recipe"
"""Key beside an arm's options."""
_ARM = "arm:"
"""Start of a model's name that means the policy of an arm."""
_OURS = ("run.name", "run.dir", "run.seed")
"""Options that the experiment gives each run."""
_MEASURING = ("annotation.annotator", "annotation.options", "eval.evaluator", "eval.options", "eval.perplexity_model")
"""Options that decide what a held-out answer counts for, beside how it is sampled."""
_MEASURED_WITH = {
    "second_score": "eval.evaluator",
    "nats_per_token": "eval.perplexity_model",
    "transfer_score": "data.transfer",
}
"""Metric -> option without which there is none."""
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
    made: dict[str, str] = field(default_factory=dict)
    """Option -> folder of the model that an earlier arm's run makes."""

    @property
    def name(self) -> str:
        """Name of the run and its folder."""
        return run_name(self.arm, self.seed)

    @property
    def at_start(self) -> Config:
        """The config with the initial policy in place of what other arms train from it, which may not be there yet."""
        return _with(self.config, dict.fromkeys(self.made, self.config.model.model_name_or_path))

    def complete(self, config: Config) -> Config:
        """A config made of `at_start`, with the models of other arms."""
        return _with(config, self.made)


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
    directions: tuple[Direction, ...]
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
    keys = _read_keys(file)
    for needed in ("base", "seeds", "arms"):
        if needed not in keys:
            raise ConfigError(f"{file}: {needed}: expected {_EXPECTED_OF[needed]}, got nothing")
    base, _ = read_values(_named_file(keys["base"], "a config file"))
    common = _options(keys["options"]) if "options" in keys else {}
    arms = {name: _arm(key) for name, key in _named(keys["arms"], _EXPECTED_OF["arms"])}
    seeds = _seeds(keys["seeds"])
    folder = root / file.stem
    if not _NAME.fullmatch(file.stem):
        raise ConfigError(f"{file}: expected a file name that can name a folder, got {file.stem!r}")
    runs = tuple(
        _run(file, folder / "runs", name, seed, {**base, **recipe, **common, **own}, list(arms))
        for seed in seeds
        for name, (recipe, own) in arms.items()
    )
    baseline = next(iter(arms))
    if "baseline" in keys:
        place, node, _ = keys["baseline"]
        baseline = _one_of(value_of(node, str, place), arms, place, "arm")
    paper = _paper(keys["paper"], arms, metrics) if "paper" in keys else {}
    directions = tuple(_directions(keys["direction"], arms, metrics)) if "direction" in keys else ()
    for number, run in enumerate(runs):
        _require_different(runs[:number], run, file)
        _require_alike(runs[0], run, file)
    for claim in directions:
        option = _MEASURED_WITH.get(claim.metric)
        if option is not None and _value(runs[0].config, option) is None:
            place = keys["direction"].place
            raise ConfigError(f"{place}: {claim.metric}: expected {option}, which measures it, got none")
    return Experiment(file, folder, seeds, tuple(arms), baseline, paper, directions, runs)


class _Key(NamedTuple):
    """A key's value, and where it stands."""

    place: str
    """file:line: key."""
    node: yaml.Node
    file: Path


_EXPECTED = f"an experiment ({', '.join(_KEYS)})"
_EXPECTED_OF = {
    "base": "a config file, relative to this one's folder",
    "seeds": "a list of different whole numbers, as [1, 2, 3]",
    "arms": "a mapping {arm: {section: {option: value}}}",
}


def _read_keys(file: Path) -> dict[str, _Key]:
    """The keys of a file, and those of the other experiment that it names, where it gives none."""
    keys = _keys(_Key(str(file), document(file, str(file), _EXPECTED), file), "", _EXPECTED, _KEYS)
    if _OTHER not in keys:
        return keys
    named = keys.pop(_OTHER)
    other = _named_file(named, "a file of an experiment")
    inherited = _keys(_Key(str(other), document(other, str(other), _EXPECTED), other), "", _EXPECTED, _KEYS)
    if _OTHER in inherited:
        raise ConfigError(f"{named.place}: expected a file that names no other one, got {str(other)!r}")
    return inherited | keys


def _named_file(key: _Key, what: str) -> Path:
    """The file that a value names, relative to the one in which it stands."""
    target = Path(os.path.normpath(key.file.parent / value_of(key.node, str, key.place)))
    if not target.is_file():
        raise ConfigError(f"{key.place}: expected {what}, got {str(target)!r}, which is none")
    return target


def _keys(of: _Key, where: str, expected: str, known: Collection[str]) -> dict[str, _Key]:
    """Key -> value of a mapping with known keys."""

    def unknown(key: str) -> str | None:
        if key in known:
            return None
        hint = suggestions.sentence(difflib.get_close_matches(key, known, n=1, cutoff=0.6))
        return f"{where}{'.' if where else ''}{key}: unknown key{hint or '; known: ' + ', '.join(known)}"

    line = of.node.start_mark.line + 1
    return {
        key: _Key(f"{of.file}:{at}: {where}{'.' if where else ''}{key}", value, of.file)
        for key, at, value in entries(of.node, of.file, expected, where, unknown, line)
    }


def _named(of: _Key, expected: str) -> list[tuple[str, _Key]]:
    """(name, value) of a mapping with names of the user's."""
    where = of.place.rpartition(": ")[2]
    found = entries(of.node, of.file, expected, where, lambda _: None, of.node.start_mark.line + 1)
    named = [(name, _Key(f"{of.file}:{line}: {where}.{name}", value, of.file)) for name, line, value in found]
    if not named:
        raise ConfigError(f"{of.place}: expected {expected}, got none")
    return named


def _arm(key: _Key) -> tuple[dict[str, Given], dict[str, Given]]:
    """Values of an arm's recipe, and its own. Raises ConfigError, for its name too."""
    name = key.place.partition(": arms.")[2]
    if not _NAME.fullmatch(name) or len(name) > 100:
        expected = "a name of letters, digits, '_', '-', '+' and '.', at most 100, that begins with one of the first"
        raise ConfigError(f"{key.place}: expected {expected} (it names folders)")
    recipe: dict[str, Given] = {}

    def take(found: _Key) -> None:
        file = _named_file(found, "a config file")
        values, files = read_values(file)
        if len(files) == 1:
            raise ConfigError(
                f"{found.place}: expected a config that is built on another one (base), got {str(file)!r}"
            )
        last, _ = read_values(files[-1])
        recipe.update({option: each for option, each in values.items() if each != last.get(option)})

    own = _options(key, take)
    return recipe, own


def _options(of: _Key, take_recipe: Callable[[_Key], None] | None = None) -> dict[str, Given]:
    """Dotted option -> value of {section: {option: value}} or {section.option: value}.

    Args:
        take_recipe: is given the value of the key `recipe`; None: there can't be one.
    """
    where = of.place.rpartition(": ")[2]

    def unknown(key: str) -> str | None:
        if key in sections() or key in options() or (key == _RECIPE and take_recipe is not None):
            return None
        section, _, field = key.partition(".")
        if section in sections() and field:
            return unknown_field(section)(field)
        found = suggestions.of_section(key, [*sections()], options())
        return f"{where}: {key}: unknown section or option{suggestions.sentence(found)}"

    given: dict[str, Given] = {}
    if isinstance(of.node, yaml.ScalarNode) and not of.node.value:
        return given  # `masked:`, which changes nothing

    def take(name: str, at: str, value: yaml.Node) -> None:
        if name in _OURS:
            raise ConfigError(f"{at}: expected no such option, as the experiment gives each run its own")
        if name in given:
            raise ConfigError(f"{at}: given twice, first in {given[name].where}")
        given[name] = given_option(value, name, at)

    expected = "a mapping {section: {option: value}}"
    for key, line, block in entries(of.node, of.file, expected, where, unknown, of.node.start_mark.line + 1):
        if key in options():
            take(key, f"{of.file}:{line}: {key}", block)
        elif key == _RECIPE and take_recipe is not None:
            take_recipe(_Key(f"{of.file}:{line}: {where}.{key}", block, of.file))
        else:
            for field, at, value in entries(block, of.file, "a mapping of options", key, unknown_field(key), line):
                take(f"{key}.{field}", f"{of.file}:{at}: {key}.{field}", value)
    return given


def _seeds(key: _Key) -> tuple[int, ...]:
    if not isinstance(key.node, yaml.SequenceNode):
        raise ConfigError(f"{key.place}: expected {_EXPECTED_OF['seeds']}, got {key.node.value or 'none'!r}")
    seeds = tuple(value_of(item, int, f"{key.place}[{number}]") for number, item in enumerate(key.node.value))
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"{key.place}: expected {_EXPECTED_OF['seeds']}, got {list(seeds) if seeds else 'none'}")
    return seeds


def _run(file: Path, folder: Path, arm: str, seed: int, given: Mapping[str, Given], arms: Sequence[str]) -> ArmRun:
    own = {"run.name": run_name(arm, seed), "run.dir": str(folder), "run.seed": seed}
    every = {**given, **{name: Given(value, f"{file}: {name}") for name, value in own.items()}}
    made = {}
    for option in marked(MODEL):
        each = every.get(option)
        if each is not None and isinstance(each.value, str) and each.value.startswith(_ARM):
            known, expected = arms[: arms.index(arm)], f"{_ARM}NAME of an arm before this one"
            if option == "model.model_name_or_path":
                known, expected = (), "a model, and no arm's"
            elif not known:
                expected = "a model: no arm comes before this one"
            if (other := each.value.removeprefix(_ARM)) not in known:
                raise ConfigError(f"{each.where}: expected {expected}, got {each.value!r}")
            made[option] = str(folder / run_name(other, seed) / "policy")
            every[option] = Given(made[option], each.where)
    config = build(every, file)
    with located(every, file):
        require(config.hub.push is None, "hub.push", "none in an experiment, whose runs would all be uploaded", True)
    return ArmRun(arm, seed, config, every, made)


def _require_different(others: Sequence[ArmRun], run: ArmRun, file: Path) -> None:
    """Raise ConfigError when a run has every option of another arm's: it would come to the same, bit by bit."""
    for other in others:
        if replace(other.config, run=replace(other.config.run, name=run.name)) == run.config:
            raise ConfigError(
                f"{file}: arms.{run.arm}: expected an option in which it differs from {other.arm}, got none"
            )


def _require_alike(first: ArmRun, run: ArmRun, file: Path) -> None:
    """Raise ConfigError when a run's held-out answers are sampled or judged in another way than the first run's."""
    sides = [(name, _value(first.config, name), _value(run.config, name)) for name in _MEASURING]
    if not (first.config.eval.is_greedy and run.config.eval.is_greedy):
        ways = first.config.eval_sampling, run.config.eval_sampling
        sides += [(f"eval.{name}", *(getattr(way, name) for way in ways)) for name in ("temperature", "top_k", "top_p")]
    for option, expected, got in sides:
        if expected != got:
            place = run.given[option].where if option in run.given else f"{file}: arms.{run.arm}: {option}"
            why = f"as in {first.name}, for what is compared is measured alike; `options` holds for all arms"
            raise ConfigError(f"{place}: expected {expected}, {why}; got {got}")


def _value(config: Config, option: str) -> Any:
    section, name = option.split(".")
    return getattr(getattr(config, section), name)


def _with(config: Config, values: Mapping[str, str]) -> Config:
    """A config with other values of options."""
    for option, value in values.items():
        section, name = option.split(".")
        changed: dict[str, Any] = {section: replace(getattr(config, section), **{name: value})}
        config = replace(config, **changed)
    return config


def _one_of(name: str, known: Collection[str], place: str, what: str) -> str:
    if name not in known:
        near = suggestions.sentence(difflib.get_close_matches(name, known, n=1, cutoff=0.6))
        raise ConfigError(f"{place}: expected the {what} {' or '.join(known)}, got {name!r}{near}")
    return name


def _paper(key: _Key, arms: Collection[str], metrics: Collection[str]) -> dict[str, PaperRow]:
    rows = {}
    for arm, row in _named(key, "a mapping {arm: {table: text, metric: number}}"):
        _one_of(arm, arms, row.place, "arm")
        known = ("table", *metrics)
        cells = _keys(row, row.place.rpartition(": ")[2], "a mapping {table: text, metric: number}", known)
        if "table" not in cells or len(cells) < 2:
            raise ConfigError(f"{row.place}: expected table, and a figure or more, got {', '.join(cells) or 'none'}")
        table = cells.pop("table")
        figures = {name: value_of(cell.node, float, cell.place) for name, cell in cells.items()}
        for name, figure in figures.items():
            if name.endswith("score") and not 0 <= figure <= 1:
                raise ConfigError(f"{cells[name].place}: expected a share from 0 to 1, as ours, got {figure:g}")
        rows[arm] = PaperRow(value_of(table.node, str, table.place), figures)
    return rows


def _directions(key: _Key, arms: Collection[str], metrics: Collection[str]) -> Iterator[Direction]:
    """The one direction, or those of a list."""
    if not isinstance(key.node, yaml.SequenceNode):
        yield _direction(key, "direction", arms, metrics)
        return
    for number, node in enumerate(key.node.value):
        line, where = node.start_mark.line + 1, f"direction[{number}]"
        yield _direction(_Key(f"{key.file}:{line}: {where}", node, key.file), where, arms, metrics)


def _direction(key: _Key, where: str, arms: Collection[str], metrics: Collection[str]) -> Direction:
    names = ("above", "below", "metric")
    expected = "a mapping {above: arm, below: arm, metric: name}"
    keys = _keys(key, where, expected, names)
    if missing := [name for name in names if name not in keys]:
        raise ConfigError(f"{key.place}.{missing[0]}: expected {expected}, got nothing")
    values: dict[str, Any] = {name: value_of(found.node, str, found.place) for name, found in keys.items()}
    for name in names:
        known, what = (metrics, "metric") if name == "metric" else (arms, "arm")
        _one_of(values[name], known, keys[name].place, what)
    if values["above"] == values["below"]:
        raise ConfigError(f"{keys['below'].place}: expected another arm than {where}.above, got {values['below']!r}")
    return Direction(**values)
