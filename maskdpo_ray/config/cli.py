"""The command line of every command: its own arguments, a config file and overrides of the file's options.

The config's options are generated from the dataclasses of schema.py, with argparse and not with jsonargparse: that one
reports errors over many lines and without the file, and accepts duplicated keys silently.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import select
import signal
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from maskdpo_ray import terminal
from maskdpo_ray.config import hub_name, suggestions
from maskdpo_ray.config.file import Given, build, expected_words, flatten, from_text, options, read_values, sections
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, UserError, line, shown


@dataclass(frozen=True)
class CommandLine:
    """Options and paths of one call of a command."""

    own: Namespace
    """The command's own arguments."""
    config: Config
    dry_run: bool
    config_files: tuple[Path, ...]
    """The config file, then its base, the base's base and so on."""
    given: dict[str, Given]
    """Values of the files and the overrides, and where they stand."""

    @property
    def config_path(self) -> Path:
        """The file that --config names."""
        return self.config_files[0]

    def files_read(self) -> list[str]:
        """Files that no output may overwrite: the config and its bases, questions, files of its models, of options."""
        config = self.config
        data, models = config.data, (config.model.model_name_or_path, config.eval.perplexity_model)
        named = flatten({"annotation": config.annotation.options, "eval": config.eval.options}).values()
        of_models = [str(file) for model in models if model for file in Path(model).glob("*")]
        texts = [
            text for text in (data.train, data.eval, data.transfer, data.documents, *named) if isinstance(text, str)
        ]
        return [*map(str, self.config_files), *texts, *of_models]


class Parser(argparse.ArgumentParser):
    """A command's arguments. Errors are ConfigErrors of one line; options can't be abbreviated."""

    def __init__(self, command: str, doc: str | None, usage: str = "") -> None:
        """`doc`: what --help says, the docstring of the command's module; `usage`: the command's own arguments."""
        is_script = Path(sys.argv[0]).name == "maskdpo"
        super().__init__(
            prog=f"maskdpo {command}" if is_script else f"python -m maskdpo_ray.{command}",
            usage=f"%(prog)s {usage}".rstrip(),
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_config(self, is_required: bool = True, is_listed: bool = False) -> Parser:
        """Add --config, --dry_run and the options of the config, after the command's own arguments.

        Args:
            is_required: whether --config must be given.
            is_listed: whether --help lists the config's options.
        """
        self.usage = f"{self.usage} {'--config FILE' if is_required else '[--config FILE]'} [--section.field VALUE ...]"
        if not is_listed:
            self.epilog = "--section.field overrides an option of FILE: `run --help` lists them all"
        what = "YAML: {section: {field: value}}; `base: FILE` beside the sections inherits another file's values"
        self.add_argument("--config", metavar="FILE", required=is_required, action=_Once, help=what)
        self.add_argument("--dry_run", action="store_true", help="check everything, say what would be done, and stop")
        groups = {section: self.add_argument_group(section) for section in sections()}
        for name, option in options().items():
            text = f"{option.meaning} [{expected_words(option.hint)}; default: {shown_default(option.default)}]"
            text = text.replace("%", "%%") if is_listed else argparse.SUPPRESS  # argparse fills in %-patterns
            groups[name.split(".")[0]].add_argument(f"--{name}", metavar="VALUE", action=_Once, help=text)
        return self

    def parse(
        self, argv: list[str], without_file: Callable[[Namespace], dict[str, Given]] = lambda own: {}
    ) -> CommandLine:
        """Read a command line; its overrides win over its config file, before anything is checked.

        Args:
            without_file: values in place of the file's, from the arguments of a command that doesn't require one.

        Raises ConfigError (one line) on any bad input, SystemExit(0) after --help.
        """
        own = self.parse_args(argv)
        files: tuple[Path, ...] = (Path("defaults"),)
        if own.config:
            given, files = read_values(Path(own.config))
        else:
            given = without_file(own)
        for name in options():
            if (text := getattr(own, name)) is not None:
                given[name] = from_text(text, name)
        return CommandLine(own, build(given, files[0]), own.dry_run, files, given)

    def parse_args(self, argv: list[str]) -> Namespace:  # type: ignore[override]
        """The arguments. Raises ConfigError, SystemExit(0) after --help."""
        words = _joined(argv)
        for word in words:  # first: argparse takes an unknown option with a space in its value for a file
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                self._refuse(word)
        arguments, left = self.parse_known_args(words)
        if left:
            self._refuse(left[0])
        return arguments

    def _refuse(self, word: str) -> NoReturn:
        name = word.partition("=")[0]
        known = [option.removeprefix("--") for option in self._option_string_actions]
        hint = suggestions.sentence(suggestions.of_option(name, known), "--")
        if word.startswith("-"):
            raise ConfigError(f"{name}: unknown option{hint} (see --help)")
        if not all(action.option_strings for action in self._actions):
            raise ConfigError(f"{shown(word)}: expected no further file, got one (see --help)")
        hint = hint if "=" in word else ""  # as verl's and Hydra's options are written
        raise ConfigError(f"{shown(name)}: expected options only, got a word without --{hint} (see --help)")

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a ConfigError in our words."""
        message = re.sub("^argument ", "", message)
        if found := re.match(r"the following arguments are required: ([^\s,]+)|(\S+): expected one arg", message):
            name = found[1] or found[2]
            option = options().get(name[2:])
            expected = expected_words(option.hint) if option else "a YAML file" if name == "--config" else "a value"
            message = f"{name}: expected {expected}, got nothing"
        elif found := re.match(r"(\S+): ignored explicit argument (.*)", message):
            message = f"{found[1]}: expected no value, got {found[2]}"
        raise ConfigError(f"{message} (see --help)")


class _Once(argparse.Action):
    """Takes an option's value; refuses a second one, as a config file does."""

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        first = getattr(namespace, self.dest, None)
        if first is not None:
            raise ConfigError(f"{option_string}: expected one value, got {shown(first)} and {shown(values)}")
        setattr(namespace, self.dest, values)


def _joined(argv: list[str]) -> list[str]:
    """`--adam.lr -5e-6` as `--adam.lr=-5e-6`, for every option of the config: argparse takes such a number for an
    option."""
    words: list[str] = []
    for word in argv:
        is_value = re.match(r"-(?!\.?\d|inf|nan)\S", word) is None
        if words and is_value and words[-1].startswith("--") and words[-1][2:] in {"config", *options()}:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def parse(argv: list[str], command: str = "run", doc: str | None = None) -> CommandLine:
    """Read the command line of a command that has no arguments but those of the config. Raises as `Parser.parse`."""
    return Parser(command, doc).add_config(is_listed=True).parse(argv)


def shown_default(default: Any) -> str:
    """A default as the user would write it."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if default == "":
        return "must be given"
    return str(list(default)) if isinstance(default, tuple) else str(default)


def one_of(values: Collection[str]) -> Callable[[str], str]:
    """The `type` of an argument with these values."""

    def checked(text: str) -> str:
        if text not in values:
            raise ArgumentTypeError(f"expected one of {', '.join(values)}, got {shown(text)}")
        return text

    return checked


def number(text: str) -> int:
    """The `type` of an argument that counts from 0."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ArgumentTypeError(f"expected a whole number of at least 0, got {shown(text)}")
    return int(text)


def count(text: str) -> int:
    """The `type` of an argument that counts from 1."""
    if not number(text):
        raise ArgumentTypeError(f"expected a whole number above 0, got {shown(text)}")
    return number(text)


def share(text: str) -> float:
    """The `type` of an argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"expected 0 to 1, got {shown(text)}")
    return value


def above_0(text: str) -> float:
    """The `type` of an argument above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, got {shown(text)}")
    return value


def start(main: Callable[[list[str]], None], argv: list[str] | None = None, resumes: bool = True) -> None:
    """Run a command on the process's arguments, or on `argv`.

    A user's error is one line and exit code 2, a signal an orderly end, which says whether the command resumes. When
    the reader of stdout goes away (`| head`), the command ends with SIGPIPE's exit code.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning for each fork
    with terminal.orderly_stop(terminal.RESUMES if resumes else "stopping"):
        try:
            try:
                main(sys.argv[1:] if argv is None else argv)
            finally:
                sys.stdout.flush()  # here, where a closed pipe can still be caught
        except UserError as error:
            fail(error)
        except BrokenPipeError:
            if not _stdout_is_closed():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered is flushed at exit
            raise SystemExit(128 + signal.SIGPIPE) from None


def _stdout_is_closed() -> bool:
    """Whether nobody reads stdout: the error is not that of another pipe."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def fail(error: UserError) -> NoReturn:
    """Show a user's error as one line on stderr and exit with code 2."""
    terminal.end_progress()
    print(f"error: {line(error)}", file=sys.stderr)
    raise SystemExit(2)


def read(path: Path) -> Config:
    """Read a config file, without overrides. Raises ConfigError."""
    return build(read_values(path)[0], path)


def resolved(config: Config) -> dict[str, dict[str, Any]]:
    """Every option and its value, {section: {field: value}}, as plain YAML and JSON values.

    A model of the Hub has its name and commit, wherever its folder lies.
    """
    found: dict[str, dict[str, Any]] = hub_name.portable(dataclasses.asdict(config))
    return found


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `read` turns into an equal `Config`."""
    return yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True, width=110)
