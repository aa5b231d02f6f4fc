"""Classes that a config names, the user's own among them, built from the options that it gives."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from maskdpo_ray.errors import ConfigError, UserError, shown


@dataclass(frozen=True)
class Slot:
    """Where a config names a class."""

    name_field: str
    options_field: str
    known: Mapping[str, tuple[str, str]]
    """Name -> (module, class)."""
    methods: tuple[str, ...]
    """What the class must have."""

    def build(self, name: str, options: Mapping[str, Any]) -> Any:
        """An object of the class that `name` stands for, its keyword arguments being `options`.

        Raises ConfigError for an unknown name, a class that can't be imported or lacks a method, and options that
        it does not take.
        """
        kind = self._class_of(name)
        lacking = [method for method in self.methods if not callable(getattr(kind, method, None))]
        if lacking:
            raise ConfigError(
                f"{self.name_field}: expected a class with the methods {', '.join(self.methods)}, got {name!r}, "
                f"which lacks {', '.join(lacking)}"
            )
        arguments = dict(options)
        try:
            inspect.signature(kind).bind(**arguments)
        except TypeError as error:
            raise ConfigError(f"{self.options_field}: {kind.__name__}: {error}") from None
        try:
            return kind(**arguments)
        except UserError:
            raise
        except Exception as error:  # the user's code raises what it likes
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.options_field}: {kind.__name__} refuses {shown(arguments)}: {reason}") from error

    def _class_of(self, name: str) -> type:
        module, class_name = self.known.get(name) or self._parts(name)
        try:
            found = getattr(import_module(module), class_name, None)
        except Exception as error:  # a module of the user's can fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.name_field}: can't import {module} of {name!r}: {reason}") from error
        if not isinstance(found, type):
            raise ConfigError(f"{self.name_field}: expected a class {class_name} in {module}, got {shown(found)}")
        return found

    def _parts(self, name: str) -> tuple[str, str]:
        """`python:package.module:Class` as (module, class)."""
        start, _, rest = name.partition(":")
        module, _, class_name = rest.partition(":")
        words = [*module.split("."), class_name]
        if start != "python" or not all(word.isidentifier() for word in words):
            known = ", ".join(sorted(self.known))
            raise ConfigError(f"{self.name_field}: expected one of {known}, python:package.module:Class; got {name!r}")
        return module, class_name


def require(holds: bool, field: str, expected: str, got: object) -> None:
    """Raise ConfigError about one option when `holds` is false."""
    if not holds:
        raise ConfigError(f"{field}: expected {expected}, got {shown(got)}")


def require_count(field: str, value: object) -> None:
    """Raise ConfigError unless the option is a whole number above 0."""
    require(type(value) is int and value >= 1, field, "a whole number above 0", value)
