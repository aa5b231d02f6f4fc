"""The command line: arguments in, a checked `Config` out, and the config written back as YAML.

The options are generated from the dataclasses of `config.py` with argparse, not with jsonargparse: that one
reports errors over many lines and without the file, and takes duplicated keys silently.

Command lines: errors in one line, and the loop's options beside a command's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from maskdpo_ray import terminal
from maskdpo_ray.config import file as fingerprint
from maskdpo_ray.config import suggestions
from maskdpo_ray.config.file import Given, build, expected_words, from_text, options, read_values
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, UserError, line, shown


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
    arguments = _config_parser(is_file_required=without_file is None).parse_args(joined(argv))
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
    terminal.end_progress()
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


class _ConfigParser(argparse.ArgumentParser):
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


def _config_parser(is_file_required: bool = True) -> _ConfigParser:
    parser = _ConfigParser(
        prog=program("run"),
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


_OF_CONFIG = re.compile(r"(--(?:config|\w+\.\w+))(?:=.*)?\Z", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing the usage and exiting; takes no abbreviated options."""

    def __init__(self, prog: str, description: str, usage: str | None = None, epilog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, usage, description, epilog, formatter_class=layout, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = re.sub("^argument ", "", message)
        if found := re.match(r"unrecognized arguments: (-[^\s=]*)", message):
            message = f"{_cut(found[1])}: unknown option{self.meant(found[1])}"
        elif found := re.match(r"unrecognized arguments: (.*)", message):
            message = f"{_cut(found[1])}: expected no further file, got one"
        elif found := re.match(r"the following arguments are required: ([^\s,]+)|(\S+): expected one arg", message):
            message = f"{found[1] or found[2]}: expected a value, got nothing"
        elif found := re.match(r"(\S+): ignored explicit argument (.*)", message):
            message = f"{found[1]}: expected no value, got {_cut(found[2])}"
        raise ConfigError(f"{message} (--help shows the command line)")

    def meant(self, word: str, *others: str) -> str:
        """The end of an error line about an unknown option: similar options of this parser or of `others`."""
        known = [*others, *(each.lstrip("-") for each in self._option_string_actions if each.startswith("--"))]
        return suggestions.sentence(suggestions.of_option(word, known), "--")


def one_of(values: Collection[str]) -> Callable[[str], str]:
    """The `type` of an argument with these values, refused in our words and not in argparse's."""

    def checked(text: str) -> str:
        if text not in values:
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(values)}, got {shown(text)}")
        return text

    return checked


def number(text: str) -> int:
    """The `type` of an argument that counts from 0."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {shown(text)}")
    return int(text)


def share(text: str) -> float:
    """The `type` of an argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {shown(text)}")
    return value


def split(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own arguments, and the words that make the config: --config and --section.field VALUE.

    Raises ConfigError, SystemExit(0) after --help.
    """
    words = joined(argv)
    of_config = [word for word in words if _OF_CONFIG.match(word)]
    # Without their values: argparse takes a word with a space for one of the command's files, whatever it begins with.
    own, unknown = parser.parse_known_args([_OF_CONFIG.sub(r"\1", word) for word in words])
    unknown = [word for word in unknown if not _OF_CONFIG.match(word)]
    more = [word for word in unknown if word != "--dry_run"]
    if more and not more[0].startswith("-"):
        parser.error(f"unrecognized arguments: {more[0]}")
    if more:
        name = more[0].partition("=")[0]
        hint = parser.meant(name, "config", "dry_run", *options())
        raise ConfigError(f"{_cut(name)}: unknown option{hint} (--help lists every option)")
    return own, [*unknown, *of_config]


def with_config(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, CommandLine]:
    """`split`, and the config read. Raises ConfigError, SystemExit(0) after --help."""
    own, words = split(parser, argv)
    return own, parse(words)


def files_read(command: CommandLine) -> list[str]:
    """What must not be written over: the config, its questions, texts among its options, and files of its models."""
    config = command.config
    options = {"annotation": config.annotation.options, "eval": config.eval.options}
    data, models = config.data, (config.model.model_name_or_path, config.eval.perplexity_model)
    named = (data.train, data.eval, data.transfer, *fingerprint.flatten(options).values())
    of_models = [str(file) for model in models if model for file in Path(model).glob("*")]
    return [str(command.config_path), *(name for name in named if isinstance(name, str)), *of_models]


def program(command: str) -> str:
    """A command's name in its usage line, as this process was called."""
    return f"maskdpo {command}" if Path(sys.argv[0]).name == "maskdpo" else f"python -m maskdpo_ray.{command}"


def start(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Run a command on the process's arguments, or on `argv`.

    A user's error is one line and exit code 2, a signal an orderly end.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning for each fork
    with terminal.orderly_stop():
        try:
            main(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            fail(error)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
