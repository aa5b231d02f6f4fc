"""Preference data of TRL and OpenRLHF.

Both take `chosen` and `rejected` as text or as chat messages, with a `prompt` or with the prompt as what the two
conversations begin with. One reader knows all of these. Other columns are left alone, as both trainers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.formats.preference import SIDES, Answer, Messages, Preference, columns, from_columns, messages


def read(item: Mapping[str, Any], where: str) -> Preference:
    """One item. A `prompt` that is a string is what the user says; labels are those that `to_*` wrote, or none.

    Raises DataError.
    """
    prompt = _prompt(item.get("prompt"), f"{where}: prompt")
    texts: dict[str, str] = {}
    for side in SIDES:
        given, texts[side] = _answer(item.get(side), f"{where}: {side}")
        if given and prompt and given != prompt:
            before = "prompt" if item.get("prompt") is not None else "chosen"
            raise DataError(f"{where}: {side}: expected the messages of {before} before the answer, got others")
        prompt = prompt or given
        if not prompt:
            raise DataError(f"{where}: prompt: expected text or chat messages, got nothing")
    if prompt[-1]["role"] != "user":
        raise DataError(f"{where}: prompt: expected the user's message last, got {prompt[-1]['role']!r}")
    return from_columns(item, prompt, texts, where)


def to_trl(preference: Preference) -> dict[str, Any]:
    """TRL's conversational preference format with explicit prompt."""
    return {
        "prompt": list(preference.prompt),
        "chosen": [_said(preference.chosen)],
        "rejected": [_said(preference.rejected)],
        **columns(preference),
    }


def to_openrlhf(preference: Preference) -> dict[str, Any]:
    """What OpenRLHF's train_dpo reads with `--data.apply_chat_template`: two conversations, no prompt column."""
    return {
        "chosen": [*preference.prompt, _said(preference.chosen)],
        "rejected": [*preference.prompt, _said(preference.rejected)],
        **columns(preference),
    }


def _said(answer: Answer) -> dict[str, str]:
    return {"role": "assistant", "content": answer.text}


def _prompt(value: Any, where: str) -> Messages:
    """() when there is none."""
    if value is None:
        return ()
    return messages([{"role": "user", "content": value}] if isinstance(value, str) else value, where)


def _answer(value: Any, where: str) -> tuple[Messages, str]:
    """The messages before the answer, if any, and the answer."""
    if value is None:
        raise DataError(f"{where}: expected an answer as text or chat messages, got nothing")
    conversation = messages([{"role": "assistant", "content": value}] if isinstance(value, str) else value, where)
    last = conversation[-1]
    if last["role"] != "assistant":
        raise DataError(f"{where}: expected the assistant's message last, got {shown(last['role'])}")
    return conversation[:-1], last["content"]
