"""Chat messages in common formats: which are read, which are dropped and why, which a template leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats import conversation
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.errors import RecordError
from maskdpo_ray.models import prompts
from maskdpo_ray.models.chat import Chat

USER = {"role": "user", "content": "Name the capital of Peru."}
LIMA, CUSCO = {"role": "assistant", "content": "Lima."}, {"role": "assistant", "content": "Cusco."}
NULLS = {"name": None, "tool_calls": None}
EXPECTED = Preference("x:1", "x:1", (USER,), Answer("Lima."), Answer("Cusco."))
WEATHER = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Lima"}}}]
TOOLS = [USER, {"role": "assistant", "content": None, "tool_calls": WEATHER}, {"role": "tool", "content": "19 C"}]


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]


SAME: dict[str, dict[str, Any]] = {
    "nulls": {"prompt": [{**USER, **NULLS}], "chosen": [{**LIMA, **NULLS}], "rejected": [{**CUSCO, **NULLS}]},
    "no calls": {"prompt": [USER], "chosen": [{**LIMA, "tool_calls": []}], "rejected": [CUSCO]},
    "the answer's weight": {"prompt": [USER], "chosen": [{**LIMA, "weight": 1}], "rejected": [CUSCO]},
    "one message": {"prompt": USER, "chosen": LIMA, "rejected": CUSCO},
    "parts": {
        "prompt": [{**USER, "content": parts(USER["content"])}],
        "chosen": [{**LIMA, "content": parts("Lima.")}],
        "rejected": "Cusco.",
    },
    "JSON text": {"prompt": USER["content"], "chosen": json.dumps([USER, LIMA]), "rejected": json.dumps([USER, CUSCO])},
    "JSON text without prompt": {"chosen": json.dumps([USER, LIMA], indent=1), "rejected": json.dumps([USER, CUSCO])},
    "JSON text of a message": {"prompt": json.dumps([USER]), "chosen": json.dumps(LIMA), "rejected": "Cusco."},
    "Python's text": {"prompt": str([USER]), "chosen": str([{**LIMA, **NULLS}]), "rejected": f" {[CUSCO]}"},
    "ShareGPT": {
        "conversations": [{"from": "human", "value": USER["content"]}],
        "chosen": {"from": "gpt", "value": "Lima."},
        "rejected": {"from": "gpt", "value": "Cusco."},
        "system": "",
    },
}


@pytest.mark.parametrize("name", SAME)
def test_one_pair_in_many_forms(name: str) -> None:
    assert preference_of(SAME[name]) == EXPECTED


def preference_of(item: dict[str, Any]) -> Preference:
    from maskdpo_ray.data import formats

    return formats.preference(item, "x:1")


def test_what_else_stands_before_an_answer() -> None:
    system = {"role": "system", "content": ""}
    answered = [system, USER, LIMA, {"role": "user", "content": "And of Kenya?"}]
    assert preference_of({"prompt": answered, "chosen": "a", "rejected": "b"}).prompt == tuple(answered)
    tools = preference_of({"prompt": TOOLS, "chosen": "a", "rejected": "b"})
    assert tools.prompt == (USER, {**TOOLS[1], "content": ""}, TOOLS[2])
    named = {**USER, "name": "Ann"}
    assert preference_of({"prompt": [named], "chosen": "a", "rejected": "b"}).prompt == (named,)
    item = {**SAME["ShareGPT"], "system": "Be brief."}
    assert preference_of(item).prompt == ({"role": "system", "content": "Be brief."}, USER)
    for text in ('["Lima", "Cusco"]', '{"capital": "Lima"}', "[1, 2]", '[{"name": "Lima"}]', "{'a': 1}"):
        assert preference_of({"prompt": "a", "chosen": text, "rejected": "b"}).chosen.text == text


BAD: dict[str, tuple[Any, str, Reason]] = {
    "nothing": ([], "x: expected chat messages, got []", Reason.INVALID_MESSAGES),
    "number": (7, "x: expected chat messages, got 7", Reason.INVALID_MESSAGES),
    "no message": (["a"], "x[0]: expected an object with role and content, got 'a'", Reason.INVALID_MESSAGES),
    "no role": ([{"content": "a"}], "x[0]: expected an object with role and content, got", Reason.INVALID_MESSAGES),
    "role": ([{"role": {}, "content": "a"}], "x[0].role: expected one of system, ", Reason.INVALID_MESSAGES),
    "content": ([{"role": "user", "content": 7}], "x[0].content: expected text, got 7", Reason.INVALID_MESSAGES),
    "part": ([{"role": "user", "content": ["a"]}], "x[0].content[0]: expected an object", Reason.INVALID_MESSAGES),
    "no text": ([{"role": "user", "content": [{"type": "text"}]}], "x[0].content[0]: ", Reason.INVALID_MESSAGES),
    "image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "x[0].content[0].type: expected text, got 'image_url'",
        Reason.NOT_TEXT,
    ),
    "empty": ([{"role": "user", "content": " "}], "x[0].content: expected text that is not empty", Reason.EMPTY_PROMPT),
    "empty answer": ([USER, {**LIMA, "content": ""}], "x[1].content: expected text that is", Reason.EMPTY_ANSWER),
    "null answer": ([USER, {**LIMA, "content": None}], "x[1].content: expected text that is", Reason.EMPTY_ANSWER),
    "half": ('[{"role": "user", "content": "a"', "x: expected text or chat messages, got text", Reason.JSON_TEXT),
    "no comma": ("[{'role': 'user', 'content': 'a'}\n {'role'", "x: expected text or chat", Reason.JSON_TEXT),
    "code": ("[{'role': print(), 'content': 'a'}]", "x: expected text or chat messages", Reason.JSON_TEXT),
    "other": ('[{"role": "user", "text": "a"}]', "x: expected text or chat messages", Reason.JSON_TEXT),
}


@pytest.mark.parametrize("name", BAD)
def test_other_messages_are_dropped_by_name(name: str) -> None:
    value, message, reason = BAD[name]
    with pytest.raises(RecordError) as caught:
        conversation.messages(value, "x")
    assert str(caught.value).startswith(message) and caught.value.reason == reason


@pytest.mark.parametrize("name", ["tool_calls", "reasoning_content", "thinking"])
def test_an_answer_is_not_learned_without_what_it_says_beside(name: str) -> None:
    for said in (WEATHER, "Hm."):
        with pytest.raises(RecordError, match=f"^x:1: chosen: expected an answer of text alone, got {name} beside it$"):
            preference_of({"prompt": "a", "chosen": [{**LIMA, name: said}], "rejected": "b"})


class Template:
    """A tokenizer that only renders."""

    name_or_path = "template"

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        [text], _ = render_jinja_template([messages], chat_template=self.chat_template, **{**options, "tokenize": None})
        return str(text)


def test_tools_are_taken_where_the_template_renders_them() -> None:
    tools = conversation.messages(TOOLS, "x")
    plain = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    calls = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    )
    deaf = "{% for m in messages if m.role != 'tool' %}{{ m.content }}{{ m.tool_calls }}{% endfor %}"
    strict = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    prompts.refuse_left_out(Chat(Template(calls)), tools, "x")
    prompts.refuse_left_out(Chat(Template(plain)), tools[:1], "x")
    for template, message in (
        (plain, r"^x\[1\].tool_calls: expected what the model's chat template renders, but it leaves this out$"),
        (deaf, r"^x\[2\].content: expected what the model's chat template renders, but it leaves this out$"),
        (strict, "^x: expected messages that the model's chat template takes, got TemplateError: no tools$"),
    ):
        with pytest.raises(RecordError, match=message) as caught:
            prompts.refuse_left_out(Chat(Template(template)), tools, "x")
        assert caught.value.reason == Reason.NOT_RENDERED


def test_the_bundled_models_template_leaves_calls_out(bundled_model: Path) -> None:
    from transformers import AutoTokenizer

    chat = Chat(AutoTokenizer.from_pretrained(bundled_model))
    with pytest.raises(RecordError, match=r"^x\[1\].tool_calls: expected what the model's chat template renders"):
        prompts.refuse_left_out(chat, conversation.messages(TOOLS, "x"), "x")
    prompts.refuse_left_out(chat, conversation.messages([USER, LIMA, TOOLS[2]], "x"), "x")
