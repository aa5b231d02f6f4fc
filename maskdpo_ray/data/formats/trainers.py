"""Preference data of TRL and OpenRLHF, and LLaMA-Factory's in ShareGPT's form.

The first two have `chosen` and `rejected` as text or as chat messages, with a `prompt` column or the prompt as the
common start of both conversations; the third has the prompt in `conversations`. One reader handles all of these, and a
column `system` with each. Other columns are ignored, as in these trainers, but for those that hold context
(`conversation.refuse_unread`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats import conversation
from maskdpo_ray.data.formats.conversation import Messages
from maskdpo_ray.data.formats.layouts import UNPAIRED
from maskdpo_ray.data.formats.preference import SIDES, Answer, Preference, both, columns, from_columns
from maskdpo_ray.errors import RecordError


def read(item: Mapping[str, Any], where: str) -> Preference:
    """One item. A string `prompt` is the user's message; labels are those that `to_*` wrote, or none.

    Raises RecordError.
    """
    name, prompt = _prompt(item, where)
    texts: dict[str, str] = {}
    for side in (item[UNPAIRED],) if UNPAIRED in item else SIDES:
        if item.get(side) is None:
            message = f"{where}: {side}: expected an answer as text or chat messages, got nothing"
            raise RecordError(message, Reason.EMPTY_ANSWER)
        given, texts[side] = conversation.answer(item[side], f"{where}: {side}")
        given = conversation.with_system(given, item, where)
        if given and prompt and given != prompt:
            message = f"{where}: {side}: expected the messages of {name} before the answer, got others"
            raise RecordError(message, Reason.INVALID_MESSAGES)
        prompt = prompt or given
        if not prompt:
            message = f"{where}: prompt: expected text or chat messages, got nothing"
            raise RecordError(message, Reason.EMPTY_PROMPT)
    return from_columns(item, conversation.prompt(prompt, f"{where}: prompt"), texts, where)


def to_trl(preference: Preference) -> dict[str, Any]:
    """TRL's conversational preference format with explicit prompt."""
    chosen, rejected = both(preference)
    return {
        "prompt": list(preference.prompt),
        "chosen": [_said(chosen)],
        "rejected": [_said(rejected)],
        **columns(preference),
    }


def to_openrlhf(preference: Preference) -> dict[str, Any]:
    """Item that OpenRLHF's train_dpo reads with `--data.apply_chat_template`: two conversations, no prompt column."""
    chosen, rejected = both(preference)
    return {
        "chosen": [*preference.prompt, _said(chosen)],
        "rejected": [*preference.prompt, _said(rejected)],
        **columns(preference),
    }


def _said(answer: Answer) -> dict[str, str]:
    return {"role": "assistant", "content": answer.text}


def _prompt(item: Mapping[str, Any], where: str) -> tuple[str, Messages]:
    """(the column of the prompt, its messages); ("chosen", ()) when it stands only in front of the answers."""
    for name in ("prompt", "conversations"):
        if item.get(name) is not None:
            return name, conversation.with_system(conversation.messages(item[name], f"{where}: {name}"), item, where)
    return "chosen", ()
