"""Strategies by name: what they are given, and what they return. `pairs.strategy` and `pairs.options` name one.

A strategy is a function of a question's scored answers, in a file of its name beside this one or anywhere that
`python:module:function` names. It says which answers go together; `selection` leaves out answers before it, applies the
filters of the section `pairs` to what it picks, and draws at most `pairs.max_pairs` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from maskdpo_ray.config.plugins import FunctionSlot, faults, listed
from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.errors import require
from maskdpo_ray.records import DropReason, ScoredAnswer

Pick = tuple[ScoredAnswer | None, ScoredAnswer | None]
"""Chosen and rejected answer; one of them alone is None."""
Picks = Iterable[Pick] | DropReason
Unit = Literal["pair", "answer"]


class Strategy(Protocol):
    """Picks pairs among a question's answers.

    Its optional attribute `unit` (see `strategy`) says whether it picks pairs or single answers.
    """

    def __call__(self, answers: Sequence[ScoredAnswer], rules: PairsConfig, **options: Any) -> Picks:
        """Picks in any order, each once, or the reason why the question gives none.

        Args:
            answers: those with a score that may be learned from, in order of their sample: two or more, or one or more
                where the unit is an answer.
            rules: the section `pairs`.
            options: `pairs.options`, whose names and defaults are the function's keyword arguments.
        """
        ...


Function = TypeVar("Function", bound=Callable[..., Picks])


def strategy(unit: Unit) -> Callable[[Function], Function]:
    """Mark a function as a strategy that picks pairs, or answers alone (for objectives of single responses)."""

    def marked(function: Function) -> Function:
        function.unit = unit  # type: ignore[attr-defined]
        return function

    return marked


@dataclass(frozen=True)
class Built:
    """A strategy with its options."""

    function: Callable[..., Picks]
    options: dict[str, Any]

    @property
    def unit(self) -> Unit:
        """See `strategy`; of a function without the mark, pairs."""
        return getattr(self.function, "unit", "pair")

    def __call__(self, answers: Sequence[ScoredAnswer], rules: PairsConfig) -> list[Pick] | DropReason:
        """See `Strategy`. Raises ConfigError, one line, for what the function raises, and for what are no picks."""
        with faults("pairs.strategy"):
            found = self.function(answers, rules, **self.options)
            picks = found if isinstance(found, DropReason) else list(found)
        is_right = isinstance(picks, DropReason) or _are_picks(picks, answers)
        expected = "(chosen, rejected) of the given answers, each once, or a DropReason"
        require(is_right, "pairs.strategy", expected, picks)
        return picks


def _are_picks(picks: Sequence[Any], answers: Sequence[ScoredAnswer]) -> bool:
    known, seen = {id(answer) for answer in answers}, set[tuple[int, int]]()
    for pick in picks:
        if not (isinstance(pick, tuple) and len(pick) == 2) or pick == (None, None):
            return False
        if not all(side is None or id(side) in known for side in pick):
            return False
        seen.add((id(pick[0]), id(pick[1])))
    return len(seen) == len(picks)


_SLOT = FunctionSlot("pairs.strategy", "pairs.options", listed(__package__), ("answers", "rules"))


def names() -> list[str]:
    """All strategies that lie in this folder, sorted; without importing them."""
    return list(_SLOT.known)


def build(rules: PairsConfig) -> Built:
    """The strategy that `pairs.strategy` names, with `pairs.options`.

    Raises ConfigError for what can't be found, for options that the strategy does not take, and for options of pairs
    where it picks single answers.
    """
    function = _SLOT.find(rules.strategy)
    built = Built(function, _SLOT.check_options(function, rules.options))
    for option, default in (("keep", "random"), ("require_kinds", False)):
        given = getattr(rules, option)
        expected = f"{default!r} with strategy {rules.strategy}, which picks single answers"
        require(built.unit == "pair" or given == default, f"pairs.{option}", expected, given)
    return built
