"""Command lines: errors in one line, and the loop's options beside a command's own."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from maskdpo_ray import terminal
from maskdpo_ray.config import cli, suggestions
from maskdpo_ray.config.file import options
from maskdpo_ray.errors import ConfigError, UserError, shown
from maskdpo_ray.store import fingerprint

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
    words = cli.joined(argv)
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


def with_config(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, cli.CommandLine]:
    """`split`, and the config read. Raises ConfigError, SystemExit(0) after --help."""
    own, words = split(parser, argv)
    return own, cli.parse(words)


def files_read(command: cli.CommandLine) -> list[str]:
    """What must not be written over: the config, its questions, texts among its options, and files of its models."""
    config = command.config
    options = {"annotation": config.annotation.options, "eval": config.eval.options}
    data, models = config.data, (config.model.model_name_or_path, config.eval.perplexity_model)
    named = (data.train, data.eval, data.transfer, *fingerprint.flatten(options).values())
    of_models = [str(file) for model in models if model for file in Path(model).glob("*")]
    return [str(command.config_path), *(name for name in named if isinstance(name, str)), *of_models]


def start(main: Callable[[list[str]], None], on_stop: str = terminal.GOES_ON) -> None:
    """Run a command on the process's arguments; a user's error is one line and exit code 2, a signal an orderly end,
    which says `on_stop`."""
    with terminal.orderly(on_stop):
        try:
            main(sys.argv[1:])
        except UserError as error:
            cli.fail(error)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
