"""YAML text to typed values: what a config file or an override gives, and the line it stands in.

Values are read from YAML's node tree by the type of the field, not by YAML 1.1's guesses, so `5e-6` is a
number and `name: off` is a name.

YAML as PyYAML's nodes: a file that stands for more than it holds, or whose tags lie, is an error like any other.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import os
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from maskdpo_ray.config import suggestions
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, UserError, shown

TRUE, FALSE = ("true", "on", "yes"), ("false", "off", "no")
NULL = ("", "null", "none", "~")
BASE = "base"
"""Key beside the sections of a file: the config file whose values hold where this one gives none."""


class _Inner:
    """The type of what lies within an option of annotator or evaluator (`judge_options`, `extra_body`).

    Much of it is meant for others, to whom `none` may be a word, as it is in YAML.
    """


@dataclass(frozen=True)
class Option:
    """One field of the config."""

    name: str
    """Dotted: `section.field`."""
    hint: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Given:
    """A value that the user gave for an option."""

    value: Any
    where: str
    """Start of an error line about it: `file:line: section.field` or `--section.field`."""


@cache
def sections() -> dict[str, type]:
    """The config's sections and their dataclasses, in order."""
    return typing.get_type_hints(Config)


@cache
def options() -> dict[str, Option]:
    """Every option by its dotted name, in the order of the config."""
    found = {}
    for section, kind in sections().items():
        hints, said = typing.get_type_hints(kind), meanings(kind)
        for field in dataclasses.fields(kind):
            name = f"{section}.{field.name}"
            found[name] = Option(name, hints[field.name], field.default, said.get(field.name, ""))
    return found


def meanings(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass or record, as one line."""
    definition = ast.parse(inspect.getsource(kind)).body[0]
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found = {}
    for pair in zip(body, body[1:], strict=False):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                found[name] = " ".join(str(text).split())
    return found


def read_values(path: Path) -> tuple[dict[str, Given], tuple[Path, ...]]:
    """Values of a config file and of its bases by dotted option name, and these files, `path` first.

    A file's value of an option replaces its base's whole, a list or mapping too. A base's path is relative to the
    folder of the file that names it. Raises ConfigError with the file and line where the fault stands.
    """
    given: dict[str, Given] = {}
    files = [path]
    where = str(path)
    for file in files:  # grows by the base that the file names
        values, base = _read_file(file, where)
        given = values | given
        if base is not None:
            target = Path(os.path.normpath(file.parent / base.value))
            if os.path.realpath(target) in map(os.path.realpath, files):
                circle = " > ".join(map(str, [*files, target]))
                raise ConfigError(f"{base.where}: expected a file that is not built on this one, got {circle}")
            files.append(target)
            where = f"{base.where}: {target}"
    return given, tuple(files)


def _read_file(path: Path, where: str) -> tuple[dict[str, Given], Given | None]:
    """Values of one file, without its base's, and the path of its base as written.

    `where`: start of the error line about a file that can't be read.
    """
    expected = f"sections ({', '.join(sections())})"
    node = document(path, where, expected)
    given: dict[str, Given] = {}
    base = None
    for section, line, block in entries(node, path, expected, "", _unknown_section):
        if section == BASE:
            place = f"{path}:{line}: {BASE}"
            base = Given(_convert(block, str, place), place)
            continue
        if isinstance(block, yaml.ScalarNode) and _is_null(block):
            continue  # a section whose lines are all commented out
        unknown = unknown_field(section)
        for field, field_line, value in entries(block, path, "a mapping of options", section, unknown, line):
            name = f"{section}.{field}"
            given[name] = given_option(value, name, f"{path}:{field_line}: {name}")
    return given, base


def document(path: Path, where: str, expected: str) -> yaml.Node:
    """The one YAML document of a file.

    Args:
        where: start of the error line about a file that can't be read.
        expected: what the file should hold, in words.

    Raises ConfigError.
    """
    try:
        documents = list(yaml.compose_all(path.read_bytes().decode("utf-8-sig"), Loader=yaml.SafeLoader))
        for each in documents:
            refuse_bomb(each)
    except OSError as error:
        raise ConfigError(f"{where}: expected a config file, got: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from None
    except yaml.MarkedYAMLError as error:
        place, reason = yaml_fault(error)
        raise ConfigError(f"{path}{place}: expected YAML, got: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, got: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{path}: expected {{section: {{field: value}}}}, got deeper nesting") from None
    if not documents:
        raise ConfigError(f"{path}: expected {expected}, got an empty file")
    if len(documents) > 1:
        line = documents[1].start_mark.line + 1
        raise ConfigError(f"{path}:{line}: expected one YAML document, got {len(documents)}")
    return documents[0]


def from_text(text: str, name: str, argument: str = "") -> Given:
    """The value of an override; lists and mappings are written as in YAML: `[0.9, 0.95]`.

    `argument`: how the command line calls the option, where not by its dotted name.
    """
    hint, where = options()[name].hint, f"--{argument or name}"
    kinds = {typing.get_origin(kind) for kind in _alternatives(hint)}
    node: yaml.Node = yaml.ScalarNode("", text)
    if tuple in kinds or (dict in kinds and text.lstrip().startswith("{")):
        try:
            node = yaml.compose(text, Loader=Loader) or node
        except (yaml.YAMLError, RecursionError):
            raise ConfigError(f"{where}: expected {expected_words(hint)}, got {shown(text)}") from None
    return given_option(node, name, where)


def given_option(node: yaml.Node, name: str, where: str) -> Given:
    """The value of an option. Raises ConfigError that begins with `where`."""
    return Given(value_of(node, options()[name].hint, where), where)


def value_of(node: yaml.Node, hint: Any, where: str) -> Any:
    """The value of a node by its type. Raises ConfigError that begins with `where`."""
    try:
        return _convert(node, hint, where)
    except RecursionError:  # an alias to what it stands in
        raise ConfigError(f"{where}: expected {expected_words(hint)}, got one that holds itself") from None


def build(given: dict[str, Given], origin: Path) -> Config:
    """Defaults, then what was given. Raises ConfigError with the place that the value comes from."""
    values: dict[str, dict[str, Any]] = {section: {} for section in sections()}
    for name, entry in given.items():
        section, field = name.split(".")
        values[section][field] = entry.value
    with located(given, origin):
        config = Config(**{section: kind(**values[section]) for section, kind in sections().items()})
    return config


@contextmanager
def located(given: dict[str, Given], origin: Path) -> Iterator[None]:
    """Put the place that an option's value comes from before a UserError that begins with the option's name."""
    try:
        yield
    except UserError as error:
        name, _, rest = str(error).partition(": ")
        option = ".".join(name.split(".")[:2])
        if option not in options():
            raise
        where = given[option].where if option in given else f"{origin}: {option}"
        raise type(error)(f"{where}{name.removeprefix(option)}: {rest}") from error


def expected_words(hint: Any) -> str:
    """A field's type in the user's words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if len(_alternatives(hint)) > 1:
        return " or ".join(expected_words(kind) for kind in arguments)
    if origin is typing.Literal:
        return f"{'one of ' if len(arguments) > 1 else ''}{', '.join(map(str, arguments))}"
    if origin is tuple:
        return "a list of names: [one, two]" if Ellipsis in arguments else f"a list of {len(arguments)} numbers"
    if origin is dict:
        if arguments[1] is Any:
            return "a mapping {name: value}"
        if arguments[1] is str:
            return "a mapping {name: text}"
        inner = "{label: number}"
        return f"a mapping {{side: {inner}}}" if typing.get_origin(arguments[1]) is dict else f"a mapping {inner}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(hint, "none")


def entries(
    node: yaml.Node, path: Path, expected: str, section: str, unknown: Callable[[str], str | None], line: int = 1
) -> Iterator[tuple[str, int, yaml.Node]]:
    """(key, line, value) of a mapping node; refuses other nodes, unknown keys and duplicated keys."""
    if not isinstance(node, yaml.MappingNode):
        place = f"{path}:{line}: {section}" if section else f"{path}:{line}"
        raise ConfigError(f"{place}: expected {expected}, got {_got(node)}")
    seen: dict[str, int] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else _got(key_node)
        problem = unknown(key)
        if problem:
            raise ConfigError(f"{path}:{line}: {problem}")
        if key in seen:
            name = f"{section}.{key}" if section else key
            raise ConfigError(f"{path}:{line}: {name}: given twice, first in line {seen[key]}")
        seen[key] = line
        yield key, line, value


def _unknown_section(key: str) -> str | None:
    if key in sections() or key == BASE:
        return None
    if key in options():
        section, field = key.split(".")
        return f"{key}: expected `{field}` under `{section}:`, got a dotted key"
    found = suggestions.of_section(key, [*sections(), BASE], options())
    hint = suggestions.sentence(found) or f"; known: {', '.join(sections())}"
    return f"{key}: unknown section{hint}"


def unknown_field(section: str) -> Callable[[str], str | None]:
    """Return a check of a section's keys, which says what is wrong with one that is no option, None of one that is."""

    def check(key: str) -> str | None:
        name = f"{section}.{key}"
        if name in options():
            return None
        return f"{name}: unknown option{suggestions.sentence(suggestions.of_option(name, options()))}"

    return check


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _convert(node: yaml.Node, hint: Any, where: str) -> Any:
    """The value of a node. Raises ConfigError that names the part of a list or mapping that is wrong."""
    is_null = isinstance(node, yaml.ScalarNode) and _is_null(node) and (hint, node.value.lower()) != (_Inner, "none")
    free = (bool, int, float, str, type(None), list[_Inner], dict[str, _Inner])
    for kind in free if hint in (Any, _Inner) else _alternatives(hint):
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is list and isinstance(node, yaml.SequenceNode):
            return [_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(node.value)]
        if origin is tuple and Ellipsis in arguments and isinstance(node, yaml.SequenceNode):
            return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(node.value))
        if origin is tuple and isinstance(node, yaml.SequenceNode) and len(node.value) == len(arguments):
            parts = enumerate(zip(node.value, arguments, strict=True))
            return tuple(_convert(item, part, f"{where}[{i}]") for i, (item, part) in parts)
        if origin is dict and isinstance(node, yaml.MappingNode):
            return _convert_mapping(node, arguments, where)
        try:
            return _convert_scalar(node, kind, is_null)
        except (ValueError, OverflowError):
            continue  # the next alternative; the error below names them all
    raise ConfigError(f"{where}: expected {expected_words(hint)}, got {_got(node)}{_remark(node, hint)}")


def _convert_mapping(node: yaml.MappingNode, kinds: tuple[Any, Any], where: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value in node.value:
        key = _convert(key_node, kinds[0], where)
        if key in found:
            raise ConfigError(f"{where}.{key}: given twice")
        found[key] = _convert(value, kinds[1], f"{where}.{key}")
    return found


def _remark(node: yaml.Node, hint: Any) -> str:
    """End of an error line about a value whose fault can't be seen."""
    if not isinstance(node, yaml.ScalarNode):
        return ""
    kinds = _alternatives(hint)
    choices = [str(c) for kind in kinds if typing.get_origin(kind) is typing.Literal for c in typing.get_args(kind)]
    if choices:
        return suggestions.sentence(difflib.get_close_matches(node.value, choices, n=1, cutoff=0.75))
    if not _is_printable(node.value):
        return ", which holds unprintable characters"
    if node.style in ("'", '"'):
        return ", which is quoted text"
    is_too_large = {int, float} & set(kinds) and re.fullmatch(r"[-+]?\d+", node.value)
    return ", which is too large" if is_too_large else ""


def _convert_scalar(node: yaml.Node, kind: Any, is_null: bool) -> Any:
    """The value of a scalar node as one type. Raises ValueError or OverflowError."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("not a scalar")
    text, is_plain = node.value, node.style is None
    if kind is type(None) and is_null:
        return None
    if kind is str and not is_null and _is_printable(text):
        return text
    if typing.get_origin(kind) is typing.Literal:
        for choice in typing.get_args(kind):
            if str(choice) == text:
                return choice
    if is_plain and kind is bool and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    if is_plain and kind in (int, float) and math.isfinite(number := kind(text)):
        return number
    raise ValueError("not of this kind")


def _is_printable(text: str) -> bool:
    """Whether text has no control characters (line ends, NUL) and no surrogates (bytes that are no UTF-8)."""
    return all(unicodedata.category(character) not in ("Cc", "Cs") for character in text)


def _is_null(node: yaml.ScalarNode) -> bool:
    return node.style is None and node.value.lower() in NULL


def _got(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if _is_null(node) else shown(node.value)
    return f"a list of {len(node.value)}" if isinstance(node, yaml.SequenceNode) else "a mapping"


MOST_NODES = 100_000
"""Values that a file may stand for, aliases written out."""


class Loader(yaml.SafeLoader):
    """Builds plain values only; raises YAMLError for whatever is wrong, with its line, or RecursionError."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            refuse_bomb(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML trusts a tag to fit its value: `!!int x`, the date 2026-02-31
            problem = f"a value that is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from error


def refuse_bomb(node: yaml.Node) -> None:
    """Raise ComposerError if aliases make more than `MOST_NODES` values of a node; one in itself counts once."""
    sizes: dict[int, int] = {}

    def size(each: yaml.Node) -> int:
        if id(each) not in sizes:
            sizes[id(each)] = 1
            pairs = each.value if isinstance(each, yaml.MappingNode) else []
            items = each.value if isinstance(each, yaml.SequenceNode) else [item for pair in pairs for item in pair]
            sizes[id(each)] += sum(map(size, items))
        return sizes[id(each)]

    if size(node) > MOST_NODES:
        raise yaml.composer.ComposerError(
            problem=f"more than {MOST_NODES} values, once aliases are written out", problem_mark=node.start_mark
        )


def yaml_fault(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """(":line", or nothing when it isn't known; what is wrong there) of YAML that can't be read."""
    mark = error.problem_mark or error.context_mark
    return f":{mark.line + 1}" if mark else "", str(error.problem or error.context)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"beta": 0.1}} -> {"train.beta": 0.1}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
