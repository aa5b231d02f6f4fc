"""Judges: models that reply to chat conversations, for annotators that ask one. Loaded when named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from maskdpo_ray.annotators import plugins
from maskdpo_ray.errors import ConfigError, OptionError, shown

Conversation = Sequence[Mapping[str, str]]
"""Chat messages, each {"role", "content"}; the last one is the user's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said."""

    text: str
    logprob: float | None = None
    """Sum over its tokens of log p(token), or None when the judge gives none."""
    fault: str | None = None
    """Why it can't be taken for a reply (cut off, the conversation was too long), or None."""

    def quoted(self) -> str:
        """As evidence that it could not be read."""
        return f"{shown(self.text)} ({self.fault})" if self.fault else shown(self.text)


class Judge(Protocol):
    """Built on the driver from the `judge_options` of an annotator or evaluator, pickled to every actor, started there.

    About an option it raises OptionError, which names it as its constructor does.
    """

    def start(self) -> None:
        """Load the model or reach the endpoint. Raises UserError, one line, when that fails."""
        ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        """One reply to each conversation, in order, of at most `max_tokens` tokens, sampled greedily.

        Called from several threads at once. Raises AnnotatorError, one line, when there is no reply to be had.
        """
        ...

    def close(self) -> None:
        """Let go of model and connections; what a killed actor leaves must end without it."""
        ...


_KNOWN = {"http": ("maskdpo_ray.annotators.http_judge", "HttpJudge"), "vllm": ("actors.vllm_judge", "VllmJudge")}

require = partial(plugins.require, error=OptionError)
require_count = partial(plugins.require_count, error=OptionError)


def build(name: str, options: Mapping[str, Any], field: str = "annotation.options") -> Judge:
    """The judge that `judge` and `judge_options` below `field` name, not started yet.

    Raises ConfigError as `annotators.build` does.
    """
    slot = plugins.Slot(f"{field}.judge", f"{field}.judge_options", _KNOWN, ("start", "ask", "close"))
    with _options_below(field):
        judge: Judge = slot.build(name, options)
    return judge


def start(judge: Judge, field: str = "annotation.options") -> None:
    """Start it. Raises UserError, one line, when that fails; `field` as in `build`."""
    with _options_below(field):
        judge.start()


@contextmanager
def _options_below(field: str) -> Iterator[None]:
    """Raise a judge's OptionError as a ConfigError with the whole name of the option."""
    try:
        yield
    except OptionError as error:
        raise ConfigError(f"{field}.judge_options.{error}") from None
