"""Check that a chat template renders all messages: some templates leave out tool calls and tools' turns."""

from __future__ import annotations

from maskdpo_ray.chat import Chat
from maskdpo_ray.dropped import Reason
from maskdpo_ray.errors import RecordError
from maskdpo_ray.formats.conversation import Messages


def refuse_left_out(chat: Chat, prompt: Messages, where: str) -> None:
    """Raise RecordError naming the tool call, or the turn of a tool or a developer, that the template leaves out.

    The conversation is rendered with and without each: if both are equal, the model would never see it. Raises
    ModelError when the tokenizer has no chat template.
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
    try:
        whole = chat.rendered(prompt)
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
    for i, name in told:
        without = {key: value for key, value in prompt[i].items() if key != name}
        try:
            same = whole == chat.rendered((*prompt[:i], {"content": "", **without}, *prompt[i + 1 :]))
        except RecordError:
            continue  # the template asks for it
        if same:
            message = f"{where}[{i}].{name}: expected what the model's chat template renders, but it leaves this out"
            raise RecordError(message, Reason.NOT_RENDERED)
