"""Classes that a config names and that an actor hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cloudpickle

from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.config.plugins import Built, Slot, faults
from maskdpo_ray.errors import require
from maskdpo_ray.records import Question


class HostedSlot(Slot[Built]):
    """Option that names what an actor hosts: a class that checks questions and may say what it needs of its actor."""

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> Built:
        """See `Slot.build`. Raises ConfigError, too, for a `max_concurrency` that is no whole number above 0, and for
        what can't be pickled on its way to an actor."""
        built = super().build(name, options)
        with faults(f"{self.name_field}: {type(built).__name__} must be pickled on its way to an actor"):
            cloudpickle.dumps(built)
        self._count(built, "max_concurrency", 1)
        return built

    def check(self, built: Any, question: Question) -> None:
        """Ask what was built whether answers to `question` can be worked on.

        Raises the UserError that it raises, and ConfigError, one line, for any other error of its code.
        """
        with faults(f"{self.name_field}: {type(built).__name__}.check of question {question.id!r}"):
            built.check(question)

    def num_gpus(self, built: Built) -> int:
        """How many GPUs its actor needs, 0 when it does not say. Raises ConfigError when that is no number."""
        return self._count(built, "num_gpus", 0)

    def gpus_of(self, name: str, options: Mapping[str, Any] | None = None) -> int:
        """How many GPUs an actor of the class of this name will need, told by its options before it is built: its
        judge's, or what its `gpus_of(options)` says; 0 where neither tells. Raises ConfigError for bad options."""
        given, kind = options or {}, self.find(name)
        if (judge := judges.named(kind, given)) is not None:
            return judges.num_gpus(judge, given.get("judge_options", {}), self.options_field)
        with faults(f"{self.options_field}: {kind.__name__}"):
            return int(getattr(kind, "gpus_of", lambda _: 0)(given))

    def _count(self, built: Built, name: str, least: int) -> int:
        """An attribute that must be a whole number of `least` or more; without it `least`."""
        field = f"{self.name_field}: {name}"
        with faults(field):
            value = getattr(built, name, least)
        require(type(value) is int and value >= least, field, f"a whole number, {least} or more", value)
        return int(value)
