"""Whether a chat template says all that the messages say: tools are what templates know or leave out."""

from __future__ import annotations

from typing import Any

from maskdpo_ray.dropped import Reason
from maskdpo_ray.errors import ModelError, RecordError, one_line
from maskdpo_ray.formats.conversation import Messages


def refuse_left_out(tokenizer: Any, prompt: Messages, where: str) -> None:
    """Raise RecordError naming the tool call, or the turn of a tool or a developer, that the template leaves out.

    It is rendered with and without it: where both are the same, the model would never see it. Raises ModelError when
    the tokenizer has no chat template.
    """
    told = [
        (i, name)
        for i, message in enumerate(prompt)
        for name in ("tool_calls", "content")
        if name == "tool_calls"
        and name in message
        or name == "content"
        and message["role"] in ("tool", "developer")
        and message["content"].strip()
    ]
    if not told:
        return
    if not tokenizer.chat_template:
        raise ModelError(f"{tokenizer.name_or_path}: expected a chat template, got none; use a model tuned for chat")
    whole = _rendered(tokenizer, prompt, where)
    for i, name in told:
        without = {key: value for key, value in prompt[i].items() if key != name}
        try:
            same = whole == _rendered(tokenizer, (*prompt[:i], {"content": "", **without}, *prompt[i + 1 :]), where)
        except RecordError:
            continue  # the template asks for it
        if same:
            message = f"{where}[{i}].{name}: expected what the model's chat template renders, but it leaves this out"
            raise RecordError(message, Reason.NOT_RENDERED)


def _rendered(tokenizer: Any, prompt: Messages, where: str) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in prompt], tokenize=False, add_generation_prompt=True
        )
        return text
    except Exception as error:  # a template is a program, which can fail in any way
        message = f"{where}: expected messages that the model's chat template takes, got {one_line(error)}"
        raise RecordError(message, Reason.NOT_RENDERED) from None
