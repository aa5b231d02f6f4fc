"""Annotators label the sentences of answers. One module each, loaded when named."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from maskdpo_ray.errors import ConfigError, UserError, shown
from maskdpo_ray.records import Annotation, Question, Rollout


class Annotator(Protocol):
    """Labels answers sentence by sentence.

    Built on the driver, its constructor's keyword arguments being `annotation.options`; pickled to every annotation
    actor; started there.
    """

    def check(self, question: Question) -> None:
        """Raise DataError, one line, when answers to `question` can't be labelled.

        Asked of every question before a run starts: it loads no model and takes no time to speak of.
        """
        ...

    def start(self) -> None:
        """Load what labelling needs (a model, a connection). Called once, before the first `annotate`."""
        ...

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order.

        Spans are character offsets into the answer's text, in order, and don't overlap; labels are `records.LABELS`.
        """
        ...


KNOWN: dict[str, tuple[str, str]] = {
    "claims": ("maskdpo_ray.annotators.facts", "ClaimsAnnotator"),
    "classifier": ("maskdpo_ray.annotators.classifier", "ClassifierAnnotator"),
    "facts": ("maskdpo_ray.annotators.facts", "FactsAnnotator"),
    "replay": ("maskdpo_ray.annotators.replay", "ReplayAnnotator"),
}
"""Annotator name -> (module, class)."""

METHODS = ("check", "start", "annotate")
"""What `Annotator` asks for."""


def build(name: str, options: Mapping[str, Any] | None = None) -> Annotator:
    """The annotator that a config names, not started yet.

    Raises ConfigError for an unknown name, a class that can't be imported or is no annotator, and options that
    it does not take.
    """
    kind = _class_of(name)
    lacking = [method for method in METHODS if not callable(getattr(kind, method, None))]
    if lacking:
        raise ConfigError(
            f"annotation.annotator: expected a class with the methods {', '.join(METHODS)}, got {name!r}, "
            f"which lacks {', '.join(lacking)}"
        )
    arguments = dict(options or {})
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"annotation.options: {kind.__name__}: {error}") from None
    try:
        built: Annotator = kind(**arguments)
    except UserError:
        raise
    except Exception as error:  # the user's code raises what it likes
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"annotation.options: {kind.__name__} refuses {shown(arguments)}: {reason}") from error
    return built


def _class_of(name: str) -> type:
    module, class_name = KNOWN.get(name) or _parts(name)
    try:
        found = getattr(import_module(module), class_name, None)
    except Exception as error:  # a module of the user's can fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"annotation.annotator: can't import {module} of {name!r}: {reason}") from error
    if not isinstance(found, type):
        raise ConfigError(f"annotation.annotator: expected a class {class_name} in {module}, got {shown(found)}")
    return found


def _parts(name: str) -> tuple[str, str]:
    """`python:package.module:Class` as (module, class)."""
    start, _, rest = name.partition(":")
    module, _, class_name = rest.partition(":")
    words = [*module.split("."), class_name]
    if start != "python" or not all(word.isidentifier() for word in words):
        known = ", ".join(sorted(KNOWN))
        raise ConfigError(f"annotation.annotator: expected one of {known}, python:package.module:Class; got {name!r}")
    return module, class_name
