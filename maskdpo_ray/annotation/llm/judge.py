"""Judges: models that reply to chat conversations, for annotators and evaluators that ask one. Loaded when named."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, Protocol

from maskdpo_ray import errors
from maskdpo_ray.annotation.llm import thoughts
from maskdpo_ray.config import plugins
from maskdpo_ray.errors import AnnotatorError, ConfigError, OptionError, shown
from maskdpo_ray.models import thinking

Conversation = Sequence[Mapping[str, str]]
"""Chat messages, each {"role", "content"}; the last one is the user's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer of a judge to a conversation."""

    text: str
    logprob: float | None = None
    """Sum over its tokens of log p(token), or None when the judge gives none."""
    fault: str | None = None
    """Why it can't be taken for a reply (cut off, the conversation was too long), or None."""

    def quoted(self) -> str:
        """Text of the reply as evidence that it could not be read."""
        return f"{shown(self.text)} ({self.fault})" if self.fault else shown(self.text)


class Judge(Protocol):
    """Built on the driver from the `judge_options` of an annotator or evaluator, pickled to every actor, started there.

    Its constructor raises OptionError naming a bad option. Optional attributes: `max_model_len`, its context in tokens,
    and `max_completion_tokens`, its longest reply including thinking, so that replies that can't fit are refused before
    the run; `thinking`, the tags of its thinking blocks (`thinking.KNOWN`); `gives_logprobs`, false when no reply
    will have a log-prob. Optional methods: `rest()`, to give a GPU back until `start` is called again; static,
    `gpus_of(options)`, how many GPUs a judge of these options runs on, for `plan`, which has no files.
    """

    def start(self) -> None:
        """Load the model or reach the endpoint. Raises UserError, one line, when that fails."""
        ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        """One reply to each conversation, in order, of at most `max_tokens` tokens, sampled greedily.

        Replies may contain thinking blocks. Called from several threads concurrently. Raises AnnotatorError, one line,
        when there is no reply.
        """
        ...

    def close(self) -> None:
        """Let go of model and connections; what a killed actor leaves must end without it."""
        ...


_KNOWN = {"http": ("maskdpo_ray.annotation.llm.http", "HttpJudge"), "vllm": ("actors.vllm_judge", "VllmJudge")}
require = partial(errors.require, error=OptionError)
require_count = partial(plugins.require_count, error=OptionError)
_OF_EVALUATORS = "eval.options"
_RENDERS = ("add_generation_prompt", "continue_final_message", "conversation", "messages", "return_dict", "tokenize")


def require_reply_options(stop: Any, max_completion_tokens: Any, chat_template_kwargs: Any) -> None:
    """Check the options that all kinds of judges share. Raises OptionError."""
    texts = [stop] if isinstance(stop, str) else stop
    is_texts = isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) and text for text in texts)
    require(stop is None or bool(is_texts), "stop", "a text or a list of texts", stop)
    if max_completion_tokens is not None:
        require_count("max_completion_tokens", max_completion_tokens)
    given = chat_template_kwargs
    is_names = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
    require(given is None or is_names, "chat_template_kwargs", "a mapping of names to values", given)
    ours = sorted(set(_RENDERS).intersection(given or ()))
    require(not ours, "chat_template_kwargs", f"none of {', '.join(_RENDERS)}", ours)


def build(name: str, options: Mapping[str, Any], max_tokens: int, field: str = "annotation.options") -> Judge:
    """The judge that `judge` and `judge_options` below `field` name, not started yet.

    Raises ConfigError as `protocol.build` does, and when replies of `max_tokens` leave no room for a prompt.
    """
    with _options_below(field):
        judge: Judge = _slot(field).build(name, options)
        context, room = getattr(judge, "max_model_len", None), getattr(judge, "max_completion_tokens", None)
        expected = f"at least the longest reply, {max_tokens} tokens"
        require(room is None or room >= max_tokens, "max_completion_tokens", expected, room)
        longest = max_tokens if room is None else room
        expected = f"more than the longest reply, {longest} tokens"
        require(context is None or context > longest, "max_model_len", expected, context)
    return judge


def find(name: str, field: str = "annotation.options") -> type:
    """The class of judges of this name. Raises ConfigError when there is none."""
    found: type = _slot(field).find(name)
    return found


def named(kind: type, options: Mapping[str, Any]) -> str | None:
    """Name of the judge that an annotator or evaluator of a class asks with these options, its default included."""
    takes = inspect.signature(kind).parameters.get("judge")
    name = options.get("judge", None if takes is None else takes.default)
    return name if isinstance(name, str) else None


def num_gpus(name: str, options: Any, field: str = "annotation.options") -> int:
    """GPUs that a judge of these options runs on, told before it is built by `gpus_of(options)` of its class; 0 where
    that doesn't tell. Raises ConfigError for bad options."""
    tell = getattr(find(name, field), "gpus_of", None)
    if tell is None or not isinstance(options, Mapping):
        return 0
    with _options_below(field):
        return int(tell(options))


def _slot(field: str) -> plugins.Slot[Judge]:
    return plugins.Slot(f"{field}.judge", f"{field}.judge_options", _KNOWN, ("start", "ask", "close"))


def start(judge: Judge, field: str = "annotation.options") -> None:
    """Start a judge. Raises UserError, one line, when that fails; `field` as in `build`."""
    with _options_below(field):
        judge.start()


def rest(judge: Judge | None) -> None:
    """Let a judge give its GPU back until it is started again; one elsewhere, or none, has none."""
    if hasattr(judge, "rest"):
        judge.rest()


def ask(judge: Judge, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
    """The judge's replies, without thinking blocks.

    Raises AnnotatorError, one line, when it fails or does not return one reply per conversation.
    """
    replies: object = judge.ask(conversations, max_tokens)
    if not isinstance(replies, (list, tuple)) or len(replies) != len(conversations):
        got = len(replies) if isinstance(replies, (list, tuple)) else type(replies).__name__
        raise AnnotatorError(f"judge: expected a list of {len(conversations)} replies, got {got}")
    for number, reply in enumerate(replies):
        if fault := _fault(reply):
            raise AnnotatorError(f"judge: reply {number}: {fault}")
    known = getattr(judge, "thinking", thinking.KNOWN)
    return [_without_thinking(reply, known) for reply in replies]


def _without_thinking(reply: Reply, known: tuple[thinking.TagPair, ...]) -> Reply:
    """The reply without thinking; its log-probability is then dropped, as it covers the thinking too."""
    text = thoughts.stripped(reply.text, known)
    if text is None:
        return replace(reply, fault=reply.fault or "its thinking has no end")
    return reply if text == reply.text else replace(reply, text=text, logprob=None)


def _fault(reply: object) -> str | None:
    """Fault of a reply, None if it has none."""
    if not isinstance(reply, Reply):
        return f"expected a Reply, got {type(reply).__name__}"
    if not isinstance(reply.text, str):
        return f"text: expected text, got {shown(reply.text)}"
    if reply.logprob is not None and not (isinstance(reply.logprob, Real) and reply.logprob < 1):
        return f"logprob: expected a number, at most 0, or None, got {shown(reply.logprob)}"
    if reply.fault is not None and not isinstance(reply.fault, str):
        return f"fault: expected text or None, got {shown(reply.fault)}"
    return None


@contextmanager
def _options_below(field: str) -> Iterator[None]:
    """Raise a judge's OptionError as a ConfigError with the whole name of the option."""
    try:
        yield
    except OptionError as error:
        raise ConfigError(f"{field}.judge_options.{error}") from None


def build_for_evaluator(judge: str | None, options: Mapping[str, Any] | None, max_tokens: int) -> Judge | None:
    """The judge that `eval.options.judge` names, not started; None without one. Raises ConfigError as `build` does.

    `max_tokens`: the longest reply.
    """
    is_name = judge is None or isinstance(judge, str)
    errors.require(is_name, f"{_OF_EVALUATORS}.judge", "a name or none", judge)
    errors.require(
        options is None or isinstance(options, Mapping), f"{_OF_EVALUATORS}.judge_options", "a mapping", options
    )
    errors.require(
        judge is not None or not options,
        f"{_OF_EVALUATORS}.judge_options",
        f"none without {_OF_EVALUATORS}.judge",
        options,
    )
    return None if judge is None else build(judge, options or {}, max_tokens, _OF_EVALUATORS)


def start_for_evaluator(judge: Judge) -> None:
    """Start an evaluator's judge. Raises UserError, one line, when that fails."""
    start(judge, _OF_EVALUATORS)
