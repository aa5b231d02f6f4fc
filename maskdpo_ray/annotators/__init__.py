"""Annotators label the sentences of answers. One module each, loaded when named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from maskdpo_ray.errors import ConfigError
from maskdpo_ray.records import Annotation, Question, Rollout


class Annotator(Protocol):
    """Labels answers sentence by sentence."""

    def check(self, question: Question) -> None:
        """Raise DataError, one line, when answers to `question` can't be labelled.

        Asked of every question before a run starts: it loads no model and takes no time to speak of.
        """
        ...

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order."""
        ...


KNOWN: dict[str, tuple[str, str]] = {"facts": ("maskdpo_ray.annotators.facts", "FactsAnnotator")}
"""Annotator name -> (module, class)."""


def build(name: str) -> Annotator:
    """The annotator that a config names. Raises ConfigError for an unknown name."""
    if name not in KNOWN:
        raise ConfigError(f"annotation.annotator: expected one of {', '.join(sorted(KNOWN))}; got {name!r}")
    module, class_name = KNOWN[name]
    make: Callable[[], Annotator] = getattr(import_module(module), class_name)
    return make()
