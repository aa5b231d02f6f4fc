"""Context of a pair that would be left out without a word: by its file's columns, or by the chat template."""

from __future__ import annotations

from typing import Any

import pytest
from bad_input import AUTHORS, TRL
from test_conversation import Template

from maskdpo_ray.data import formats
from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats import conversation
from maskdpo_ray.errors import RecordError
from maskdpo_ray.models import prompts
from maskdpo_ray.models.chat import Chat

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is it?"}
LIMA = {"role": "assistant", "content": "Lima."}
MORE = {"role": "user", "content": "And of Kenya?"}
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
LLAMA_FACTORY = {
    "conversations": [{"from": "human", "value": "What is it?"}],
    "chosen": {"from": "gpt", "value": "Yes. It is."},
    "rejected": {"from": "gpt", "value": "No. It is."},
}
OPENRLHF = {side: [USER, {"role": "assistant", "content": text}] for side, text in (("chosen", "a"), ("rejected", "b"))}


@pytest.mark.parametrize("item", [TRL, {**TRL, "prompt": [USER, LIMA, MORE]}, OPENRLHF, LLAMA_FACTORY, AUTHORS])
def test_the_column_system_begins_the_prompt(item: dict[str, Any]) -> None:
    before = formats.preference(item, "x:1").prompt
    assert formats.preference({**item, "system": "Be brief."}, "x:1").prompt == (SYSTEM, *before)
    assert formats.preference({**item, "system": " "}, "x:1").prompt == before
    with pytest.raises(RecordError, match="^x:1: system: expected text, got 3$"):
        formats.preference({**item, "system": 3}, "x:1")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_that_is_there_stays(role: str) -> None:
    own = [{"role": role, "content": "Be long."}, USER]
    assert formats.preference({**TRL, "prompt": own, "system": "Be brief."}, "x:1").prompt == tuple(own)


@pytest.mark.parametrize("item", [TRL, OPENRLHF, LLAMA_FACTORY, AUTHORS])
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("images", ["a.png"], Reason.NOT_TEXT),
        ("images", [{}], Reason.NOT_TEXT),  # of a table: bytes that are not text are left out
        ("image", {"path": "a.png"}, Reason.NOT_TEXT),
        ("videos", "a.mp4", Reason.NOT_TEXT),
        ("audios", [None], Reason.NOT_TEXT),
        ("tools", [{"type": "function"}], Reason.NOT_RENDERED),
        ("tools", '[{"name": "f"}]', Reason.NOT_RENDERED),
        ("history", [["a", "b"]], Reason.INVALID_MESSAGES),
    ],
)
def test_columns_that_no_reader_puts_into_the_prompt(
    item: dict[str, Any], column: str, value: Any, reason: Reason
) -> None:
    with pytest.raises(RecordError, match=f"^x:1: {column}: expected ") as caught:
        formats.preference({**item, column: value}, "x:1")
    assert caught.value.reason == reason
    expected = formats.preference(item, "x:1")
    for empty in (None, [], "", "[]"):
        assert formats.preference({**item, column: empty}, "x:1") == expected


@pytest.mark.parametrize("empty", ["", "\n", None])
def test_an_empty_thought_is_none(empty: str | None) -> None:
    assert conversation.answer([{**LIMA, "reasoning_content": empty}], "x") == ((), "Lima.")


@pytest.mark.parametrize(
    ("left_out", "index"),
    [("m.role == 'system'", 0), ("m.role == 'assistant'", 2), ("loop.index0 == 1", 1), ("loop.index0 < 3", 0)],
)
def test_every_turn_before_the_question_is_rendered(left_out: str, index: int) -> None:
    chat = Chat(Template(PLAIN.replace("%}[", f"%}}{{% if not ({left_out}) %}}[").replace("\n{%", "\n{% endif %}{%")))
    turns = conversation.messages([SYSTEM, USER, LIMA, MORE], "x")
    prompts.refuse_left_out(Chat(Template(PLAIN)), turns, "x")
    with pytest.raises(RecordError, match=rf"^x\[{index}\].content: expected what the model's chat template renders"):
        prompts.refuse_left_out(chat, turns, "x")
    if index == 0:  # nothing is left out of an empty one
        prompts.refuse_left_out(chat, ({**SYSTEM, "content": " "}, *turns[3:]), "x")


def test_a_turn_that_the_template_reads_is_not_left_out() -> None:
    default = "{% if messages[0].content %}{{ messages[0].content }}{% else %}Be brief.{% endif %}{{ messages[1] }}"
    flag = "{{ 'think' if '/think' in messages[0].content }}{{ messages[1] }}"
    cut = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}\n{% endfor %}"
    prompts.refuse_left_out(Chat(Template(default)), (SYSTEM, USER), "x")
    prompts.refuse_left_out(Chat(Template(flag)), ({**SYSTEM, "content": "/think"}, USER), "x")
    thought = {**LIMA, "content": "<think>Hm.</think>"}
    prompts.refuse_left_out(Chat(Template(cut)), (USER, thought, MORE), "x")
