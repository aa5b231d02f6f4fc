"""Check that a chat template renders all messages: some leave out the system's, tool calls, tools' or earlier turns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats.conversation import Messages
from maskdpo_ray.errors import RecordError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.records import Question


class Prompts:
    """Checker of rendered prompts, one question after the other."""

    def __init__(self, chat: Chat, max_len: int, max_new_tokens: int, vocab_size: int) -> None:
        """`max_len`: limit of a prompt and its answer of `max_new_tokens` together, tokens."""
        self._chat = chat
        self._max_len = max_len
        self._max_new_tokens = max_new_tokens
        self._vocab_size = vocab_size
        self._asked: dict[bytes, Question] = {}
        self.longest = 0
        """Length of the longest prompt, tokens."""

    def check(self, question: Question) -> Question:
        """The question, if it is usable.

        Raises RecordError when the template refuses it or leaves a turn out, when its prompt leaves no room for
        the answer, has no text, has a token id that the model lacks, or equals the prompt of other messages; ModelError
        as `Chat.prompt_ids`.
        """
        where = f"question {question.id!r}"
        refuse_left_out(self._chat, question.prompt, f"{where}: prompt")
        ids = self._chat.prompt_ids(question)
        length, room = len(ids), self._max_len - self._max_new_tokens
        if not self._chat.tokenizer.decode(ids, skip_special_tokens=True).strip():
            message = f"{where}: expected text from the model's chat template, got {length} tokens without text"
            raise RecordError(message, Reason.EMPTY_PROMPT)
        if max(ids) >= self._vocab_size:
            message = f"{where}: expected token ids below the model's vocab_size {self._vocab_size}, got {max(ids)}"
            raise RecordError(message, Reason.OUTSIDE_VOCABULARY)
        first = self._asked.setdefault(hashlib.sha256(repr(ids).encode()).digest(), question)
        if first.prompt != question.prompt:
            expected = "expected a prompt of its own from the model's chat template"
            raise RecordError(f"{where}: {expected}, got that of {first.id!r} too", Reason.NOT_RENDERED)
        if length > room:
            raise RecordError(
                f"{where}: expected a prompt of at most {room} tokens (context "
                f"{self._max_len}, less rollout.max_new_tokens {self._max_new_tokens}), got {length}",
                Reason.TOO_LONG,
            )
        self.longest = max(self.longest, length)
        return question


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
