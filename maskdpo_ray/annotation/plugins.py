"""Classes that a config names, the user's own among them, built from the options that it gives."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

import cloudpickle

from maskdpo_ray.errors import ConfigError, UserError, described, require, shown
from maskdpo_ray.records import Question

Built = TypeVar("Built")


@dataclass(frozen=True)
class Slot(Generic[Built]):
    """Option of a config that names a class."""

    name_field: str
    options_field: str
    known: Mapping[str, tuple[str, str]]
    """Name -> (module, class)."""
    methods: tuple[str, ...]
    """Methods that the class must have."""

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> Built:
        """An object of the class that `name` stands for, its keyword arguments being `options`; not started yet.

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
        arguments = dict(options or {})
        try:
            inspect.signature(kind).bind(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.options_field}: {kind.__name__}: {error}") from None
        with _faults(f"{self.options_field}: {kind.__name__} refuses {shown(arguments)}"):
            built: Built = kind(**arguments)
        return built

    def _class_of(self, name: str) -> type:
        module, class_name = self.known.get(name) or self._parts(name)
        with _faults(f"{self.name_field}: can't import {module} of {name!r}"):
            found = getattr(import_module(module), class_name, None)
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


class HostedSlot(Slot[Built]):
    """Option that names what an actor hosts: a class that checks questions and may say what it needs of its actor."""

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> Built:
        """See `Slot.build`. Raises ConfigError, too, for a `max_concurrency` that is no whole number above 0, and for
        what can't be pickled on its way to an actor."""
        built = super().build(name, options)
        with _faults(f"{self.name_field}: {type(built).__name__} must be pickled on its way to an actor"):
            cloudpickle.dumps(built)
        self._count(built, "max_concurrency", 1)
        return built

    def check(self, built: Any, question: Question) -> None:
        """Ask what was built whether answers to `question` can be worked on.

        Raises the UserError that it raises, and ConfigError, one line, for any other error of its code.
        """
        with _faults(f"{self.name_field}: {type(built).__name__}.check of question {question.id!r}"):
            built.check(question)

    def num_gpus(self, built: Built) -> int:
        """How many GPUs its actor needs, 0 when it does not say. Raises ConfigError when that is no number."""
        return self._count(built, "num_gpus", 0)

    def _count(self, built: Built, name: str, least: int) -> int:
        """An attribute that must be a whole number of `least` or more; without it `least`."""
        field = f"{self.name_field}: {name}"
        with _faults(field):
            value = getattr(built, name, least)
        require(type(value) is int and value >= least, field, f"a whole number, {least} or more", value)
        return int(value)


@contextmanager
def _faults(where: str) -> Iterator[None]:
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
