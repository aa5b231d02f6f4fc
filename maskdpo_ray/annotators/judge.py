"""Judges: models that reply to chat conversations, for annotators that ask one. Loaded when named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from maskdpo_ray.annotators.plugins import Slot

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


class Judge(Protocol):
    """Built on the driver from `annotation.options.judge_options`, pickled to every annotation actor, started there."""

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


FIELD = "annotation.options.judge_options"

_SLOT = Slot(
    "annotation.options.judge",
    FIELD,
    {"http": ("maskdpo_ray.annotators.http_judge", "HttpJudge"), "vllm": ("actors.vllm_judge", "VllmJudge")},
    ("start", "ask", "close"),
)


def build(name: str, options: Mapping[str, Any]) -> Judge:
    """The judge that a config names, not started yet. Raises ConfigError as `annotators.build` does."""
    judge: Judge = _SLOT.build(name, options)
    return judge
