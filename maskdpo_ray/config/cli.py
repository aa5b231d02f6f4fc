"""The command line: arguments in, a checked `Config` out, and the config written back as YAML.

The options are generated from the dataclasses of `config.py` with argparse, not with jsonargparse: that one
reports errors over many lines and without the file, and takes duplicated keys silently.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from maskdpo_ray.config import suggestions
from maskdpo_ray.config.file import Given, build, expected_words, from_text, options, read_values
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, UserError, line, shown
from maskdpo_ray.report import progress


@dataclass(frozen=True)
class CommandLine:
    """What one call of `python -m maskdpo_ray.run` asks for."""

    config: Config
    dry_run: bool
    config_path: Path
    given: dict[str, Given]
    """What the file and the overrides say, and where."""


def parse(argv: list[str], without_file: dict[str, Given] | None = None) -> CommandLine:
    """Read a command line; its overrides win over its config file, before anything is checked.

    Args:
        without_file: what takes the place of the file, which then may be left out.

    Raises ConfigError (one line) on any bad input, SystemExit(0) after `--help`.
    """
    arguments = _parser(is_file_required=without_file is None).parse_args(joined(argv))
    path = Path(arguments.config or "defaults")
    given = read_values(path) if arguments.config else dict(without_file or {})
    for name in options():
        text = getattr(arguments, name, None)
        if text is not None:
            given[name] = from_text(text, name)
    return CommandLine(build(given, path), arguments.dry_run, path, given)


def joined(argv: list[str]) -> list[str]:
    """`--adam.lr -5e-6` as `--adam.lr=-5e-6`, for each option of the config that a value follows.

    argparse takes such a number for an option, and values for files of a command that has some.
    """
    words: list[str] = []
    for word in argv:
        is_value = re.match(r"-(?!\.?\d|inf|nan)\S", word) is None
        if words and is_value and re.fullmatch(r"--(config|\w+\.\w+)", words[-1]):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def read(path: Path) -> Config:
    """Read a config file, without overrides. Raises ConfigError."""
    return build(read_values(path), path)


def fail(error: UserError) -> NoReturn:
    """Show a user's error as one line on stderr and exit with code 2."""
    progress.end()
    print(f"error: {line(error)}", file=sys.stderr)
    raise SystemExit(2)


def resolved(config: Config) -> dict[str, dict[str, Any]]:
    """Every option and its value, {section: {field: value}}, as plain YAML and JSON values."""
    return {
        section: {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        for section, fields in dataclasses.asdict(config).items()
    }


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `read` turns into an equal `Config`."""
    return yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True, width=110)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub("^argument ", "", message)
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            name = found[1].split("=")[0]
            known = [*options(), *(each.removeprefix("--") for each in self._option_string_actions if "." not in each)]
            hint = suggestions.sentence(suggestions.of_option(name, known), "--")
            if not name.startswith("-"):
                hint = hint if "=" in found[1] else ""  # as verl's and Hydra's options are written
                expected = "expected options only, got a word without --"
                raise ConfigError(f"{shown(name)}: {expected}{hint} (--help lists them)")
            message = f"{name}: unknown option{hint}"
        elif found := re.match(r"the following arguments are required: (--config)|(\S+): expected one arg", message):
            name = found[1] or found[2]
            expected = "a YAML file" if name == "--config" else expected_words(options()[name[2:]].hint)
            message = f"{name}: expected {expected}, got nothing"
        elif found := re.match(r"(\S+): ignored explicit argument (.*)", message):
            message = f"{found[1]}: expected no value, got {found[2]}"
        raise ConfigError(f"{message} (--help lists every option)")


class _Once(argparse.Action):
    """Takes an option's value; refuses a second one, as a config file does."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        first = getattr(namespace, self.dest, None)
        if first is not None:
            raise ConfigError(f"{option_string}: expected one value, got {shown(first)} and {shown(values)}")
        setattr(namespace, self.dest, values)


def _parser(is_file_required: bool = True) -> _Parser:
    parser = _Parser(
        prog="python -m maskdpo_ray.run",
        usage="%(prog)s --config FILE [--dry_run] [--section.field VALUE ...]",
        description="Mask-DPO on the policy's own answers: answer, annotate, pair, train, again. "
        "Every option of the config file can be overridden here by its dotted name.",
        epilog="example: %(prog)s --config configs/quickstart.yaml --train.beta 0.05 --rollout.num_engines 2",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", required=is_file_required, action=_Once, help="YAML: {section: {field: value}}."
    )
    parser.add_argument("--dry_run", action="store_true", help="Check all, print the plan, start nothing.")
    groups: dict[str, Any] = {}
    for name, option in options().items():
        section = name.split(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        text = f"{option.meaning} [{expected_words(option.hint)}; default: {shown_default(option.default)}]"
        # argparse fills %-patterns in help texts
        text = text.replace("%", "%%")
        groups[section].add_argument(f"--{name}", metavar="VALUE", action=_Once, default=argparse.SUPPRESS, help=text)
    return parser


def shown_default(default: Any) -> str:
    """A default as the user would write it."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if default == "":
        return "must be given"
    return str(list(default)) if isinstance(default, tuple) else str(default)
