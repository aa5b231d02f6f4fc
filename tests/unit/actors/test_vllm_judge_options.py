"""Options of both kinds of judges, for models that think and for endpoints that refuse common request fields."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_judge import MODEL, ScriptedServer
from test_vllm_judge import HELLO, HTTP, started

from actors.vllm_judge import VllmJudge
from maskdpo_ray.annotation.llm import judge
from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import AnnotatorError, ConfigError


def refusal(field: str, message: str) -> tuple[int, dict[str, Any]]:
    return 400, {"error": {"message": message, "type": "invalid_request_error", "param": field, "code": "unsupported"}}


@dataclass
class Newer(ScriptedServer):
    """An endpoint like newer OpenAI models: one token limit, thinking included, and no temperature but 1."""

    names_fields: bool = True

    def answer(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        if "max_tokens" in body:
            field, instead = "max_tokens", "Use 'max_completion_tokens' instead."
        elif body.get("temperature", 1) != 1:
            field, instead = "temperature", "Only the default (1) value is supported."
        else:
            return super().answer(body, authorization)
        if not self.names_fields:
            return 400, {"error": {"message": "bad request"}}
        return refusal(field, f"Unsupported: '{field}' with this model. {instead}")


def test_an_endpoint_that_takes_neither_max_tokens_nor_a_temperature() -> None:
    """Each refusal names the option that fixes it."""
    with Newer() as server:
        with pytest.raises(AnnotatorError, match="judge_options: max_completion_tokens: N, sent in place of") as caught:
            started(server)
        assert "temperature:" not in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(AnnotatorError, match="judge_options: temperature: null, for none to be sent$"):
            started(server, max_completion_tokens=600)
        for heat in (None, 1):
            (reply,) = started(server, max_completion_tokens=600, temperature=heat).ask([HELLO], 9)
            assert reply.text == "No claim"
        assert [request.get("temperature") for request in server.requests] == [None, None, 1, 1]
        assert {request["max_completion_tokens"] for request in server.requests} == {600}
        assert not any("max_tokens" in request for request in server.requests)


def test_a_first_refusal_that_names_nothing() -> None:
    with Newer(names_fields=False) as server, pytest.raises(AnnotatorError) as caught:
        started(server)
    for option in ("max_completion_tokens: N", "temperature: null", "logprobs: false"):
        assert option in str(caught.value)


def test_what_is_sent_for_the_options() -> None:
    with ScriptedServer() as server:
        options = {"stop": ["\n\n"], "chat_template_kwargs": {"enable_thinking": False}, "logprobs": False}
        started(server, temperature=0.5, extra_body={"top_p": 0.9}, **options).ask([HELLO], 9)
    base = {"model": MODEL, "messages": HELLO, "temperature": 0.5, "max_tokens": 9, "top_p": 0.9, "stop": ["\n\n"]}
    expected = {**base, "chat_template_kwargs": {"enable_thinking": False}, "authorization": "Bearer none"}
    assert server.requests[1] == expected


class Thinks(ScriptedServer):
    """A judge that thinks in `content`, or beside it if the endpoint parses it, then replies or is cut off."""

    aside = False

    def _reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, found = super()._reply(body)
        (choice,) = found["choices"]
        message, thinking = choice["message"], "Has a claim? " * 9
        if self.aside:
            message["reasoning_content"] = thinking
        else:
            message["content"] = f"<think>{thinking}</think>\n\n{message['content']}"
        if body.get("max_completion_tokens", 0) < 100:
            message["content"], choice["finish_reason"] = None if self.aside else f"<think>{thinking}", "length"
        return status, found


@pytest.mark.parametrize("aside", [False, True])
def test_a_model_that_thinks_behind_an_endpoint(aside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thinks, "aside", aside)
    with Thinks() as server:
        asked = judge.ask(started(server, max_completion_tokens=600), [HELLO], 9)
        assert asked == [Reply("No claim")]
        (cut,) = judge.ask(started(server), [HELLO], 9)
        assert cut.fault == "cut off at 9 tokens"


COMMON = [
    ({"stop": []}, "stop: expected a text or a list of texts, got []"),
    ({"stop": [""]}, "stop: expected a text or a list of texts, got ['']"),
    ({"max_completion_tokens": 0}, "max_completion_tokens: expected a whole number above 0, got 0"),
    ({"max_completion_tokens": 511}, "max_completion_tokens: expected at least the longest reply, 512 tokens, got 511"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs: expected a mapping of names to values, got []"),
    ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs: expected none of add_generation_prompt, "),
    ({"thinking": "think"}, "thinking: expected {open: text, close: text}, got 'think'"),
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *COMMON,
        ({"temperature": -1}, "temperature: expected 0 to 2, or null, got -1"),
        ({"temperature": "none"}, "temperature: expected 0 to 2, or null, got 'none'"),
        ({"extra_body": "sk-7f3a9d0c5e1b8642"}, "extra_body: expected a mapping, got 'text'"),
        (
            {"stop": "a", "extra_body": {"stop": "b"}},
            "extra_body: expected none of the options that are given beside it, got ['stop']",
        ),
    ],
)
def test_bad_options_of_an_endpoint(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("anah", {"judge": "http", "judge_options": {**HTTP, **given}})
    assert str(caught.value).startswith(f"annotation.options.judge_options.{expected}")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *COMMON,
        (
            {"max_completion_tokens": 600, "max_model_len": 600},
            "max_model_len: expected more than the longest reply, 600 tokens, got 600",
        ),
    ],
)
def test_bad_options_of_an_engine(given: dict[str, Any], expected: str, tiny_model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build("anah", {"judge": "vllm", "judge_options": {"model": str(tiny_model), **given}})
    assert str(caught.value).startswith(f"annotation.options.judge_options.{expected}")


KEY = "sk-7f3a9d0c5e1b8642"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"api_key": KEY}, "api_key"),
        ({"Api-Key": "x"}, "Api-Key"),
        ({"headers": {"Authorization": "x"}}, "headers.Authorization"),
        ({"providers": [{"secret": "x"}]}, "providers[0].secret"),
        ({"user": KEY}, "user"),
        ({"user": f"Bearer {KEY}"}, "user"),
    ],
)
def test_a_key_in_the_body_is_refused_and_not_shown(body: dict[str, Any], where: str) -> None:
    """The config is written into the run folder and sent to trackers."""
    with pytest.raises(ConfigError, match="^annotation.options.judge_options.extra_body: expected no key") as caught:
        build("anah", {"judge": "http", "judge_options": {**HTTP, "extra_body": body}})
    assert f"extra_body.{where} (not shown; api_key_env names" in str(caught.value)
    assert KEY not in str(caught.value) and "'x'" not in str(caught.value)


def test_fields_that_are_no_keys() -> None:
    body = {"prompt_cache_key": "a", "skip_special_tokens": False, "stop_token_ids": [2], "reasoning_effort": "low"}
    build("anah", {"judge": "http", "judge_options": {**HTTP, "extra_body": body}})


class Engine:
    """A stand-in for vLLM's engine: records its requests and replies `text`."""

    model_config = SimpleNamespace(max_model_len=2048)

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, []

    async def generate(self, prompt: Any, parameters: dict[str, Any], name: str) -> Any:
        self.asked.append((prompt["prompt_token_ids"], parameters))
        output = SimpleNamespace(text=self.text, finish_reason="stop", cumulative_logprob=-0.5)
        yield SimpleNamespace(outputs=[output], num_cached_tokens=0)


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kinds = SimpleNamespace(FINAL_ONLY="final")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict, TokensPrompt=dict))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", SimpleNamespace(RequestOutputKind=kinds))
    yield


TEMPLATE = """{% for message in messages %}{{ message.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '<think>\n' if enable_thinking is not defined or enable_thinking }}{% endif %}"""


def test_what_an_engine_is_asked(tiny_model: Path, tmp_path: Path, fake_vllm: None) -> None:
    """Arguments of SamplingParams, without an engine; a tag that the prompt opens counts."""
    file = tmp_path / "thinks.jinja"
    file.write_text(TEMPLATE)

    def asked(text: str, **options: Any) -> tuple[list[Reply], str, dict[str, Any]]:
        built = VllmJudge(str(tiny_model), device="cpu", chat_template=str(file), **options)
        built._open_tokenizer()
        built._engine = engine = Engine(text)
        replies = asyncio.run(built._ask_all([HELLO], 9))
        ((prompt, parameters),) = engine.asked
        own = SimpleNamespace(ask=lambda *_: replies, thinking=built.thinking)
        return judge.ask(own, [HELLO], 9), built._tokenizer.decode(prompt), parameters  # type: ignore[arg-type]

    replies, prompt, parameters = asked("Hm.</think>No claim", max_completion_tokens=600, stop="\n\n")
    assert (replies, prompt) == ([Reply("No claim")], "Claim 0 is here.<think>\n")
    assert (parameters["max_tokens"], parameters["stop"], parameters["skip_special_tokens"]) == (600, "\n\n", True)
    replies, _, parameters = asked(
        "No claim, as it stopped too early", thinking={"open": "<|im_start|>", "close": "<|im_end|>"}
    )
    assert replies[0].fault == "its thinking has no end"
    assert (parameters["max_tokens"], parameters["stop"], parameters["skip_special_tokens"]) == (9, None, False)
    replies, prompt, _ = asked("No claim", chat_template_kwargs={"enable_thinking": False})
    assert (replies, prompt) == ([Reply("No claim", -0.5)], "Claim 0 is here.")


def test_template_arguments_are_tried_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "strict.jinja"
    file.write_text("{{ raise_exception('no such mode') if mode == 'odd' }}{{ messages[0].content }}")
    options = {"model": str(tiny_model), "chat_template": str(file), "chat_template_kwargs": {"mode": "odd"}}
    with pytest.raises(AnnotatorError, match="no such mode"):
        judge.build("vllm", options, 8)
    options["chat_template_kwargs"] = {"mode": "plain"}
    judge.build("vllm", options, 8)
