"""Classes and functions that a config names, the user's own among them, with the options that it gives them."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from maskdpo_ray.config import suggestions
from maskdpo_ray.config.file import expected_words
from maskdpo_ray.config.schema import Rule
from maskdpo_ray.errors import ConfigError, UserError, described, require, shown

Built = TypeVar("Built")


@dataclass(frozen=True)
class _Named:
    """Option of a config that names something to import."""

    name_field: str
    options_field: str
    known: Mapping[str, tuple[str, str]]
    """Name -> (module, name there)."""
    kind: ClassVar[str]

    def find(self, name: str) -> Any:
        """Import what `name` stands for. Raises ConfigError for an unknown name and for what can't be imported."""
        module, attribute = self.known.get(name) or self._parts(name)
        with faults(f"{self.name_field}: can't import {module} of {name!r}"):
            found = getattr(import_module(module), attribute, None)
        is_right = isinstance(found, type) if self.kind == "Class" else callable(found)
        if not is_right:
            what = f"a {self.kind.lower()} {attribute} in {module}"
            raise ConfigError(f"{self.name_field}: expected {what}, got {shown(found)}")
        return found

    def _parts(self, name: str) -> tuple[str, str]:
        """`python:package.module:Class` as (module, class)."""
        start, _, rest = name.partition(":")
        module, _, attribute = rest.partition(":")
        words = [*module.split("."), attribute]
        if start != "python" or not all(word.isidentifier() for word in words):
            known = ", ".join(sorted(self.known))
            hint = suggestions.sentence(difflib.get_close_matches(name, self.known, n=1))
            expected = f"expected one of {known}, python:package.module:{self.kind}"
            raise ConfigError(f"{self.name_field}: {expected}; got {name!r}{hint}")
        return module, attribute


@dataclass(frozen=True)
class Slot(_Named, Generic[Built]):
    """Option of a config that names a class."""

    methods: tuple[str, ...]
    """Methods that the class must have."""
    kind = "Class"

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> Built:
        """An object of the class that `name` stands for, its keyword arguments being `options`; not started yet.

        Raises ConfigError for an unknown name, a class that can't be imported or lacks a method, and options that
        it does not take.
        """
        found = self.find(name)
        lacking = [method for method in self.methods if not callable(getattr(found, method, None))]
        if lacking:
            raise ConfigError(
                f"{self.name_field}: expected a class with the methods {', '.join(self.methods)}, got {name!r}, "
                f"which lacks {', '.join(lacking)}"
            )
        arguments = dict(options or {})
        try:
            inspect.signature(found).bind(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.options_field}: {found.__name__}: {error}") from None
        with faults(f"{self.options_field}: {found.__name__} refuses {shown(arguments)}"):
            built: Built = found(**arguments)
        return built


@dataclass(frozen=True)
class FunctionSlot(_Named):
    """Option of a config that names a function."""

    given: tuple[str, ...]
    """Arguments that the caller gives by position; the function's others are its options."""
    kind = "function"

    def check_options(self, function: Callable[..., Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
        """Check `options` against the signature of a function that `find` found, and return them.

        The annotation of an argument holds its type and its rules, as in schema.py:
        `share: Annotated[float, Rule("0 to 1", ...)] = 0.5`. Types other than numbers, texts, bools and Literals are
        the function's own to check.

        Raises ConfigError for an option that the function does not take, lacks, or takes with other values.
        """
        arguments = dict(options or {})
        parameters = list(inspect.signature(function).parameters.values())
        name, (leading, own) = function.__name__, (parameters[: len(self.given)], parameters[len(self.given) :])
        if len(leading) < len(self.given) or any(each.kind > each.POSITIONAL_OR_KEYWORD for each in leading):
            expected = f"a function of ({', '.join(self.given)}, ...)"
            raise ConfigError(f"{self.name_field}: expected {expected}, got {name}{inspect.signature(function)}")
        takes = [each.name for each in own if each.kind is not each.VAR_KEYWORD]
        is_open = len(takes) < len(own)
        for option in arguments:
            if not is_open and option not in takes:
                expected = f"expected one of {', '.join(takes)}" if takes else f"{name} takes none"
                hint = suggestions.sentence(difflib.get_close_matches(str(option), takes, n=1))
                raise ConfigError(f"{self.options_field}: {name}: {expected}; got {shown(option)}{hint}")
        for each in own:
            if each.name in arguments:
                self._check_value(function, each, arguments[each.name])
            elif each.default is each.empty and each.kind is not each.VAR_KEYWORD:
                raise ConfigError(f"{self.options_field}: {name}: expected {each.name}, which has no default")
        return arguments

    def _check_value(self, function: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> None:
        hint: Any = parameter.annotation
        rules: tuple[Any, ...] = ()
        where = f"{self.options_field}: {function.__name__}: {parameter.name}"
        if isinstance(hint, str):
            with faults(f"{where}: can't read its annotation {hint}"):
                one = types.SimpleNamespace(__annotations__={parameter.name: hint})
                hint = typing.get_type_hints(one, function.__globals__, include_extras=True)[parameter.name]
        if typing.get_origin(hint) is Annotated:
            hint, rules = hint.__origin__, hint.__metadata__
        if hint is not inspect.Parameter.empty:
            require(_fits(value, hint), where, expected_words(hint), value)
        for rule in rules:
            if isinstance(rule, Rule):
                require(value is None or rule.holds(value), where, rule.expected, value)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value that YAML gave is of a type; true of types that YAML has no value of."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in (bool, int, str) else value is None if hint is type(None) else True


def marked(kind: type, mark: object) -> list[str]:
    """Names of a class's options whose annotations carry a mark or rule, as in `model: ModelName`."""
    found = []
    for name, parameter in inspect.signature(kind).parameters.items():
        hint: Any = parameter.annotation
        if isinstance(hint, str):
            one = types.SimpleNamespace(__annotations__={name: hint})
            try:
                hint = typing.get_type_hints(one, vars(sys.modules[kind.__module__]), include_extras=True)[name]
            except NameError:  # imported for type checkers alone, which a mark can't be
                continue
        if typing.get_origin(hint) is Annotated and mark in hint.__metadata__:
            found.append(name)
    return found


def listed(package: str) -> dict[str, tuple[str, str]]:
    """Modules of a package as {name: (module, name)}, each being named after what it defines; without importing them.

    `protocol`, and names that begin with an underscore, are left out.
    """
    names = sorted(each.name for each in pkgutil.iter_modules(import_module(package).__path__))
    return {name: (f"{package}.{name}", name) for name in names if name != "protocol" and not name.startswith("_")}


@contextmanager
def faults(where: str) -> Iterator[None]:
    """Raise ConfigError, `where` and one line, for what the user's code raises in here.

    `sys.exit` is such a fault: a check that ends with status 0 would look as if it had passed. UserErrors are what
    the code should raise, and Ctrl-C is the user's own.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: {described(error)}") from error


def require_count(field: str, value: object, error: type[ConfigError] = ConfigError) -> None:
    """Raise `error` unless the option is a whole number above 0."""
    require(type(value) is int and value >= 1, field, "a whole number above 0", value, error)
