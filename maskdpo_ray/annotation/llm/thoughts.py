"""Thinking blocks of judges: text between tags that is not part of a reply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from maskdpo_ray.errors import OptionError, shown
from maskdpo_ray.models.thinking import KNOWN, TagPair


def from_option(value: Mapping[str, Any] | None) -> tuple[TagPair, ...]:
    """The tags to search for: `KNOWN`, and those of the judge option `thinking`. Raises OptionError."""
    if value is None:
        return KNOWN
    is_pair = isinstance(value, Mapping) and set(value) == {"open", "close"}
    if not is_pair or not all(isinstance(tag, str) and tag.strip() for tag in value.values()):
        raise OptionError(f"thinking: expected {{open: text, close: text}}, got {shown(value)}")
    return (TagPair(value["open"].strip(), value["close"].strip()), *KNOWN)


def opened(prompt: str, known: tuple[TagPair, ...] = KNOWN) -> str:
    """The opening tag at the end of `prompt`, after which the model begins by thinking; "" if there is none."""
    end = prompt.rstrip()
    return next((tags.open for tags in known if end.endswith(tags.open)), "")


def stripped(text: str, known: tuple[TagPair, ...] = KNOWN) -> str | None:
    """`text` without its thinking blocks; None if one is never closed.

    A closing tag without an opening one closes the block that the prompt opened: all before it is thinking.
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
