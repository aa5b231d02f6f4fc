"""Chat messages in the formats of other tools, normalised for the policy's chat template.

Input: messages as OpenAI, TRL and Hugging Face write them ({"role", "content"}), and ShareGPT's ({"from", "value"}).
Output: role, content as text, and all other keys that are not null (a name, tool calls), for the template.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.errors import RecordError, shown

ROLES = ("system", "developer", "user", "assistant", "tool")
Messages = tuple[dict[str, Any], ...]
"""Each with "role" and "content", both text."""
_SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool"}
_NOT_LEARNED = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Keys of an answer's message beside its content: without them the policy would learn another answer."""
_MAY_BE_EMPTY = ("system", "developer", "tool")
_UNREAD = (
    (
        ("images", "videos", "audios", "image", "video", "audio"),
        "expected a record of text alone, got content that is not text beside it",
        Reason.NOT_TEXT,
    ),
    (("tools",), "expected none, as the model's chat template is not given them", Reason.NOT_RENDERED),
    (("history",), "expected none: earlier turns are read from the prompt's messages", Reason.INVALID_MESSAGES),
)
"""Columns beside the messages that hold context in other tools' files: (names, what to say, reason)."""
_NOTHING = ("", "[]", "{}")
"""Cells of CSV files that hold none."""
_LONGEST_LITERAL = 2**20
"""Characters; Python's parser takes much memory for more."""
# Start of the JSON of a conversation, or of its Python repr, which pandas writes into CSV.
_CONVERSATION = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")


def messages(value: Any, where: str, said_by: str = "user") -> Messages:
    """Checked messages. A text is one message of the role `said_by`, a single message a conversation of one.

    A text that is the JSON of messages is parsed. Raises RecordError.
    """
    value = _of_text(value, where) if isinstance(value, str) else value
    if isinstance(value, str):
        value = {"role": said_by, "content": value}
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise RecordError(f"{where}: expected chat messages, got {shown(value)}", Reason.INVALID_MESSAGES)
    return tuple(_message(message, f"{where}[{i}]") for i, message in enumerate(value))


def prompt(value: Any, where: str) -> Messages:
    """Messages of a prompt: the last one is the user's or a tool's. Raises RecordError."""
    found = messages(value, where)
    if found[-1]["role"] not in ("user", "tool"):
        message = f"{where}: expected the user's message last, got {found[-1]['role']!r}"
        raise RecordError(message, Reason.INVALID_MESSAGES)
    return found


def answer(value: Any, where: str) -> tuple[Messages, str]:
    """(the messages before the answer, if any; the answer, which is the assistant's message). Raises RecordError."""
    *before, last = messages(value, where, said_by="assistant")
    if last["role"] != "assistant":
        message = f"{where}: expected the assistant's message last, got {shown(last['role'])}"
        raise RecordError(message, Reason.INVALID_MESSAGES)
    if beside := [name for name in _NOT_LEARNED if not _is_empty(last.get(name))]:
        message = f"{where}: expected an answer of text alone, got {beside[0]} beside it"
        raise RecordError(message, Reason.NOT_TEXT)
    return tuple(before), last["content"]


def with_system(found: Messages, item: Mapping[str, Any], where: str) -> Messages:
    """Messages after the text of the column `system`, as in LLaMA-Factory's files, if they begin without one.

    Raises RecordError.
    """
    system = item.get("system")
    if system is None:
        return found
    if not isinstance(system, str):
        raise RecordError(f"{where}: system: expected text, got {shown(system)}", Reason.INVALID_FIELD)
    if not system.strip() or not found or found[0]["role"] in ("system", "developer"):
        return found
    return ({"role": "system", "content": system}, *found)


def refuse_unread(item: Mapping[str, Any], where: str) -> None:
    """Raise RecordError naming a column that holds a part of the conversation which would be left out."""
    for names, message, reason in _UNREAD:
        for name in names:
            if not _is_empty(item.get(name)):
                raise RecordError(f"{where}: {name}: {message}", reason)


def _is_empty(value: Any) -> bool:
    return value.strip() in _NOTHING if isinstance(value, str) else value in (None, [])


def _of_text(text: str, where: str) -> Any:
    """The messages that the text is the JSON of; else the text. Raises RecordError if it only begins like messages."""
    if not _CONVERSATION.match(text):
        return text
    for parse in (json.loads, ast.literal_eval):
        if parse is ast.literal_eval and len(text) > _LONGEST_LITERAL:
            break
        try:
            value = parse(text)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        each = [value] if isinstance(value, dict) else value
        if all(isinstance(message, dict) and _named(message).keys() >= {"role", "content"} for message in each):
            return value
    raise RecordError(
        f"{where}: expected text or chat messages, got text that begins as a conversation and is none: {shown(text)}",
        Reason.JSON_TEXT,
    )


def _named(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message without nulls, ShareGPT's names mapped to ours."""
    found = {str(name): value for name, value in message.items() if value is not None}
    if found.get("tool_calls") == []:
        del found["tool_calls"]
    if "role" not in found and "content" not in found and found.keys() >= {"from", "value"}:
        role, content = found.pop("from"), found.pop("value")
        found = {"role": _SHAREGPT.get(role, role) if isinstance(role, str) else role, "content": content, **found}
    return found


def _message(value: Any, where: str) -> dict[str, Any]:
    message = _named(value) if isinstance(value, Mapping) else {}
    role = message.pop("role", None)
    if role is None or not {"content", "value"} & value.keys() and "tool_calls" not in message:
        expected = f"{where}: expected an object with role and content, got {shown(value)}"
        raise RecordError(expected, Reason.INVALID_MESSAGES)
    if role not in ROLES:
        expected = f"{where}.role: expected one of {', '.join(ROLES)}, got {shown(role)}"
        raise RecordError(expected, Reason.INVALID_MESSAGES)
    content = message.pop("content", None)
    text = _text(content, f"{where}.content")
    # Templates render a null as "None", or fail on it; it is allowed only beside tool calls.
    may_be_empty = role in _MAY_BE_EMPTY and text is not None or role == "assistant" and "tool_calls" in message
    if not (text and text.strip()) and not may_be_empty:
        expected = f"{where}.content: expected text that is not empty, got {shown(content)}"
        raise RecordError(expected, Reason.EMPTY_ANSWER if role == "assistant" else Reason.EMPTY_PROMPT)
    return {"role": role, "content": text or "", **message}


def _text(content: Any, where: str) -> str | None:
    """Text, or OpenAI's list of parts joined without a separator, as templates do."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RecordError(f"{where}: expected text, got {shown(content)}", Reason.INVALID_MESSAGES)
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind == "text" and not isinstance(part.get("text"), str):
            expected = f"{where}[{i}]: expected an object with type and text, got {shown(part)}"
            raise RecordError(expected, Reason.INVALID_MESSAGES)
        if kind != "text":
            raise RecordError(f"{where}[{i}].type: expected text, got {shown(kind)}", Reason.NOT_TEXT)
        texts.append(part["text"])
    return "".join(texts)
