"""Command lines: errors in one line, and the loop's options beside a command's own."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from maskdpo_ray import cli
from maskdpo_ray.errors import ConfigError, UserError


class Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing the usage and exiting; takes no abbreviated options."""

    def __init__(self, prog: str, description: str, usage: str | None = None, epilog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, usage, description, epilog, formatter_class=layout, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help shows the command line)")


def with_config(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, cli.CommandLine]:
    """The command's own arguments, and the config that --config and --section.field VALUE make.

    Raises ConfigError, SystemExit(0) after --help.
    """
    own, of_config = parser.parse_known_args(_joined(argv))
    return own, cli.parse(of_config)


def start(main: Callable[[list[str]], None]) -> None:
    """Run a command on the process's arguments; a user's error is one line and exit code 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)


def _joined(argv: list[str]) -> list[str]:
    """The config's options as `--name=value`: else argparse takes their values for the command's files."""
    joined: list[str] = []
    for argument in argv:
        if joined and re.fullmatch(r"--(config|\w+\.\w+)", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
