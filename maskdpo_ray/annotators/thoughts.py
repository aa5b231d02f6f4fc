"""Thinking in what a model says: blocks between tags, which are no part of its reply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from maskdpo_ray.errors import OptionError, shown


class Tags(NamedTuple):
    """What a block of thinking begins and ends with."""

    open: str
    close: str


KNOWN = (
    *(Tags(f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    Tags("[THINK]", "[/THINK]"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Of the models that are around: DeepSeek-R1 and Qwen3, Seed-OSS, Magistral, Kimi, Command A, gpt-oss."""


def from_option(value: Mapping[str, Any] | None) -> tuple[Tags, ...]:
    """The tags to look for: `KNOWN`, and those of the judge option `thinking`. Raises OptionError."""
    if value is None:
        return KNOWN
    is_pair = isinstance(value, Mapping) and set(value) == {"open", "close"}
    if not is_pair or not all(isinstance(tag, str) and tag.strip() for tag in value.values()):
        raise OptionError(f"thinking: expected {{open: text, close: text}}, got {shown(value)}")
    return (Tags(value["open"].strip(), value["close"].strip()), *KNOWN)


def opened(prompt: str, known: tuple[Tags, ...] = KNOWN) -> str:
    """The opening tag that `prompt` ends in, so that the model begins by thinking; "" when it ends in none."""
    end = prompt.rstrip()
    return next((tags.open for tags in known if end.endswith(tags.open)), "")


def stripped(text: str, known: tuple[Tags, ...] = KNOWN) -> str | None:
    """`text` without its thinking, None when that has no end.

    A closing tag without an opening one ends what the prompt has opened: all before it is thinking.
    """
    said = text
    for tags in known:
        opening = re.compile(re.escape(tags.open), re.IGNORECASE)
        *thinking, said = re.split(re.escape(tags.close), said, flags=re.IGNORECASE)
        if opening.search(said):
            return None
        before = ""
        for part in thinking:
            found = opening.search(part)
            before = before + part[: found.start()] if found else ""
        said = before + said
    return text if said == text else said.strip()
