"""Check that a chat template renders all messages: some leave out the system's, tool calls, tools' or earlier turns."""

from __future__ import annotations

from collections.abc import Iterator

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats.conversation import Messages
from maskdpo_ray.errors import RecordError
from maskdpo_ray.models.chat import Chat


def refuse_left_out(chat: Chat, prompt: Messages, where: str) -> None:
    """Raise RecordError naming the turn before the user's last one, or the tool call, that the template leaves out.

    The conversation is rendered with each, without it and with another text in its place: if all are equal, the model
    would never see it. Raises ModelError when the tokenizer has no chat template.
    """
    told = [
        (i, name)
        for i, message in enumerate(prompt)
        for name in ("tool_calls", "content")
        if message.get(name) and not (name == "content" and _is_asked(prompt, i))
    ]
    if not told:
        return
    try:
        whole = chat.rendered(prompt)
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
    for i, name in told:
        if all(whole == each for each in _changed(chat, prompt, i, name)):
            message = f"{where}[{i}].{name}: expected what the model's chat template renders, but it leaves this out"
            raise RecordError(message, Reason.NOT_RENDERED)


def _is_asked(prompt: Messages, i: int) -> bool:
    """Whether it is the user's last turn, or holds no words."""
    return (i == len(prompt) - 1 and prompt[i]["role"] == "user") or not prompt[i]["content"].strip()


def _changed(chat: Chat, prompt: Messages, i: int, name: str) -> Iterator[str | None]:
    """The prompt without a field of message `i`, and with more text in it; None where the template refuses that.

    Without a system message some templates write a default one, which may be the very text that was given.
    """
    rest = {key: value for key, value in prompt[i].items() if key != name}
    changes = [{"content": "", **rest}]
    if name == "content":
        changes.append({**rest, "content": f"{prompt[i]['content']} More."})
    for change in changes:
        try:
            yield chat.rendered((*prompt[:i], change, *prompt[i + 1 :]))
        except RecordError:
            yield None  # the template asks for it
