"""The `anah` annotator through the HTTP judge: a scripted endpoint on loopback, its failures included."""

from __future__ import annotations

import math
import pickle
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import MODEL, PASSAGES, PROBABILITY, SCRIPT, ScriptedServer, sentence

from actors.vllm_judge import VllmJudge
from maskdpo_ray.annotation import replies as conformance
from maskdpo_ray.annotation.llm import http
from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.http import HttpJudge
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import AnnotatorError, ConfigError, UserError
from maskdpo_ray.records import UNPARSED, Annotation, Question, Rollout

NUM_ANSWERS, PER_ANSWER = 25, 10
HELLO = [{"role": "user", "content": "Claim 0 is here."}]


def items(language: str, first: int) -> tuple[Question, list[Rollout]]:
    """A question with one answer of the sentences numbered `first` and on."""
    document = f"Document {{sentence}} of {first}."
    asked = Question(f"{language}/{first}", "t", ({"role": "user", "content": "What?"},), document, language=language)
    text = " ".join(sentence(language, number) for number in range(first, first + PER_ANSWER))
    return asked, [Rollout(asked.id, 0, (), text, "stop", 0)]


def options(server: ScriptedServer, **judge: Any) -> dict[str, Any]:
    return {"judge": "http", "judge_options": {"base_url": server.url, "model": MODEL, **judge}}


def test_500_sentences_in_two_languages_through_an_endpoint_that_fails_every_third_call() -> None:
    asked = [
        items(language, first) for language in ("en", "zh") for first in range(0, NUM_ANSWERS * PER_ANSWER, PER_ANSWER)
    ]
    with ScriptedServer(fail_every=3) as server:
        annotator: Any = pickle.loads(pickle.dumps(build("anah", options(server, max_concurrent=8))))
        annotator.start()
        found = {}

        def label(each: tuple[Question, list[Rollout]]) -> list[Annotation]:
            question, rollouts = each
            annotator.check(question)
            pairs = [(question, rollout) for rollout in rollouts]
            annotations = annotator.annotate(pairs)
            conformance.refuse_annotation_faults(pairs, annotations)
            return annotations

        with ThreadPoolExecutor(annotator.max_concurrency) as pool:
            for (question, _), (annotation,) in zip(asked, pool.map(label, asked), strict=True):
                found[question.id] = annotation
        annotator.close()
    assert sum(len(annotation.sentences) for annotation in found.values()) == 500
    for question, _ in asked:
        labels = [each.label for each in found[question.id].sentences]
        assert labels == [label for label, _ in SCRIPT[question.language]]
        for each in found[question.id].sentences:
            assert each.confidence == (None if each.label == UNPARSED else pytest.approx(PROBABILITY))
        assert found[question.id].sentences[3].evidence == PASSAGES[question.language]
    assert [each.evidence for each in found["en/0"].sentences if each.label == UNPARSED] == [
        "fact: 'It has a claim, I think'",
        "reference: ''",
        f"verdict: {'on and ' * 11!r:.77}... (cut off at 32 tokens)",
        f"reference: {'on and ' * 11!r:.77}... (cut off at 512 tokens)",
        f"fact: '' (judge at {server.url}: expected a reply, got HTTP 400: maximum context length)",
    ]
    num_calls = NUM_ANSWERS * sum(len(replies) for script in SCRIPT.values() for _, replies in script)
    assert annotator.counts == {"sentences": 500, "judged": 500, "unparsed": 250, "calls": num_calls}
    assert len(server.requests) == num_calls + 1  # the one that `start` sends
    assert server.num_failed >= num_calls / 3


def started(server: ScriptedServer, **judge: Any) -> HttpJudge:
    built = HttpJudge(server.url, MODEL, **judge)
    built.start()
    return built


def test_what_a_request_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of another service")
    monkeypatch.setenv("JUDGE_KEY", "ours")
    with ScriptedServer() as server:
        (plain,) = started(server).ask([HELLO], 9)
        (other,) = started(server, api_key_env="JUDGE_KEY", logprobs=False, extra_body={"x": 1}).ask([HELLO], 9)
    assert (plain.text, other.text) == ("No claim", "No claim")
    assert (plain.logprob, other.logprob) == (pytest.approx(math.log(PROBABILITY)), None)
    base = {"model": MODEL, "temperature": 0, "max_tokens": 9, "messages": HELLO}
    assert server.requests[1] == {**base, "logprobs": True, "authorization": "Bearer none"}
    assert server.requests[3] == {**base, "x": 1, "authorization": "Bearer ours"}


def test_so_many_requests_at_once_and_no_more() -> None:
    with ScriptedServer(together=4) as server:
        replies = started(server, max_concurrent=4).ask([HELLO] * 12, 9)
    assert [reply.text for reply in replies] == ["No claim"] * 12
    assert server.most_at_once == 4


def test_requests_keep_their_distance_repeated_ones_too() -> None:
    with ScriptedServer(fail_every=3) as server:
        judge = started(server, requests_per_minute=600)
        begin = time.monotonic()
        replies = judge.ask([HELLO] * 6, 9)
        seconds = time.monotonic() - begin
    assert [reply.text for reply in replies] == ["No claim"] * 6
    assert server.num_failed >= 3
    assert seconds >= 0.1 * (6 + server.num_failed - 1)


def test_an_endpoint_without_log_probabilities_gives_none() -> None:
    with ScriptedServer(gives_logprobs=False) as server:
        assert started(server).ask([HELLO], 9)[0].logprob is None


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_what_the_endpoint_says_is_one_line(status: int) -> None:
    with ScriptedServer(status=status) as server:
        judge = started(server, max_retries=1)
        with pytest.raises(AnnotatorError) as caught:
            judge.ask([HELLO] * 3, 9)
    assert str(caught.value) == f"judge at {server.url}: expected a reply, got HTTP {status}: said no"
    assert type(pickle.loads(pickle.dumps(caught.value))) is AnnotatorError


def test_nobody_there_is_found_at_the_start() -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(AnnotatorError, match=f"^judge at {url}: expected a reply, got after 0 retries: .*refused"):
            HttpJudge(url, MODEL, max_retries=0, start_timeout_s=0).start()


def test_a_start_waits_for_an_endpoint_that_is_busy_or_not_there_yet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "_POLL_S", 0.05)
    with ScriptedServer(fail_first=7) as server:
        assert started(server).ask([HELLO], 9)[0].text == "No claim"
    assert server.num_failed == 7
    busy = f"judge at {server.url}: expected a reply, got HTTP 503: busy"
    assert capsys.readouterr().err == f"{busy}; asked again for 120 s (judge_options.start_timeout_s)\n"
    with ScriptedServer(fail_first=99) as server, pytest.raises(AnnotatorError, match="got HTTP 503: busy"):
        started(server, max_retries=0, start_timeout_s=0.2)
    assert 2 <= server.num_failed <= 4 and capsys.readouterr().err.count("\n") == 1
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        waiting = HttpJudge(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", MODEL, max_retries=0, start_timeout_s=0.2)
        with pytest.raises(AnnotatorError, match="got after 0 retries: .*refused") as caught:
            waiting.start()
    assert type(caught.value) is AnnotatorError and "refused; asked again for 0.2 s" in capsys.readouterr().err


def test_only_a_host_that_is_there_is_waited_for() -> None:
    error = OSError("a library's own")
    error.__cause__ = socket.gaierror("Name or service not known")
    assert not http._is_refused(error)
    error.__cause__.__context__ = ConnectionRefusedError()
    assert http._is_refused(error)


def test_an_endpoint_that_says_nothing_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(AnnotatorError, match="got after 0 retries: .*timed out"):
            HttpJudge(url, MODEL, max_retries=0, timeout_s=0.1).start()


@pytest.mark.parametrize(
    ("content", "kind"), [(b"<html>", "text/html"), (b"{", "application/json"), (b"{}", "application/json")]
)
def test_what_is_no_chat_completion_is_one_line(content: bytes, kind: str) -> None:
    with ScriptedServer(raw=(content, kind)) as server, pytest.raises(AnnotatorError) as caught:
        started(server, max_retries=0)
    message = str(caught.value)
    assert message.startswith(f"judge at {server.url}: expected a reply ") and "\n" not in message


@pytest.mark.parametrize("field", ["annotation.options", "eval.options"])
def test_options_are_named_where_they_stand(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge = judges.build("http", {**HTTP, "api_key_env": "JUDGE_KEY"}, 8, field)
    bad: list[tuple[Callable[[], object], str]] = [
        (
            lambda: judges.build("http", {**HTTP, "timeout_s": 0}, 8, field),
            r"_options.timeout_s: expected seconds above 0",
        ),
        (lambda: judges.build("http", {}, 8, field), "_options: HttpJudge: missing a required argument"),
        (lambda: judges.build("gpt", {}, 8, field), ": expected one of http, vllm, "),
        (
            lambda: judges.start(judge, field),
            "_options.api_key_env: expected a key in the environment variable JUDGE_KEY",
        ),
    ]
    for attempt, expected in bad:
        with pytest.raises(ConfigError, match=f"^{field}.judge{expected}"):
            attempt()


def test_what_a_judge_of_ones_own_says_is_left_as_it_is() -> None:
    class Own:
        def start(self) -> None:
            raise ConfigError("my.yaml: expected a port, got none")

    with pytest.raises(ConfigError, match="^my.yaml: expected a port, got none$"):
        judges.start(Own())  # type: ignore[arg-type]


HTTP = {"base_url": "http://127.0.0.1:9/v1", "model": MODEL}
BAD_OPTIONS = [
    ("http", {}, "judge_options: HttpJudge: missing a required argument: 'base_url'"),
    *(
        (
            "http",
            {**HTTP, "base_url": url},
            f"judge_options.base_url: expected an address like http://127.0.0.1:8000/v1, got '{url}'",
        )
        for url in (
            "127.0.0.1",
            "ftp://a",
            "http://",
            "http://a b/v1",
            "http://a:99999/v1",
            "http://a:b/v1",
            "http://[::1/v1",
        )
    ),
    ("http", {**HTTP, "model": " "}, "judge_options.model: expected the endpoint's name of a model, got ' '"),
    *(
        (
            "http",
            {**HTTP, "extra_body": {name: 1, "x": 2}},
            "judge_options.extra_body: expected none of logprobs, max_tokens, messages, model, stream, temperature, "
            f"got ['{name}']",
        )
        for name in ("model", "messages", "stream", "temperature", "max_tokens")
    ),
    (
        "http",
        {**HTTP, "api_key_env": "sk-1"},
        "judge_options.api_key_env: expected the name of an environment variable, got what can't be one (not shown",
    ),
    ("http", {**HTTP, "max_concurrent": 0}, "judge_options.max_concurrent: expected a whole number above 0, got 0"),
    (
        "http",
        {**HTTP, "requests_per_minute": 0.5},
        "judge_options.requests_per_minute: expected a whole number above 0, got 0.5",
    ),
    ("http", {**HTTP, "timeout_s": True}, "judge_options.timeout_s: expected seconds above 0, at most a day, got True"),
    ("http", {**HTTP, "max_retries": -1}, "judge_options.max_retries: expected a whole number, 0 or more, got -1"),
    ("http", {**HTTP, "logprobs": 5}, "judge_options.logprobs: expected true or false, got 5"),
    ("http", {**HTTP, "extra_body": []}, "judge_options.extra_body: expected a mapping, got []"),
    ("http", {**HTTP, "key": ""}, "judge_options: HttpJudge: got an unexpected keyword argument 'key'"),
    ("vllm", {}, "judge_options: VllmJudge: missing a required argument: 'model'"),
    ("vllm", {"model": "no/where"}, "judge_options.model: expected a Hugging Face folder with config.json, got 'no"),
    ("vllm", {"model": ".", "device": "tpu"}, "judge_options.device: expected cuda or cpu, got 'tpu'"),
    ("vllm", {"model": ".", "dtype": "fp8"}, "judge_options.dtype: expected one of auto, bfloat16, float16, float32"),
    ("vllm", {"model": ".", "max_model_len": 0}, "judge_options.max_model_len: expected a whole number above 0, got 0"),
    ("vllm", {"model": ".", "gpu_memory_utilization": 1.5}, "judge_options.gpu_memory_utilization: expected above 0"),
    ("vllm", {"model": ".", "enforce_eager": "no"}, "judge_options.enforce_eager: expected true or false, got 'no'"),
    ("vllm", {"model": ".", "chat_template": "no"}, "judge_options.chat_template: expected a Jinja file, got 'no'"),
    ("gpt", {}, "judge: expected one of http, vllm, python:package.module:Class; got 'gpt'"),
    ("python:json:JSONDecoder", {}, "judge: expected a class with the methods start, ask, close, got "),
]


@pytest.mark.parametrize(("judge", "judge_options", "expected"), BAD_OPTIONS)
def test_bad_options_are_refused_before_anything_starts(
    judge: str, judge_options: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        build("anah", {"judge": judge, "judge_options": judge_options})
    assert str(caught.value).startswith(f"annotation.options.{expected}")


def template(text: str) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "own.jinja").write_text(text)
        return {"chat_template": str(folder / "own.jinja")}

    return write


def damaged(name: str, content: bytes | None) -> Callable[[Path], dict[str, Any]]:
    def damage(folder: Path) -> dict[str, Any]:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        return {}

    return damage


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (template(" \n"), "chat_template: expected a template that is not empty, got '"),
        (template("{% for %}"), "expected messages that its chat template takes, got: "),
        (template("{{ raise_exception('no') }}"), "expected messages that its chat template takes, got: no"),
        (damaged("tokenizer.json", b"{}"), "/judge: expected a tokenizer, got: "),
        (damaged("model.safetensors", None), "judge_options.model: expected a folder with safetensors, got "),
        (damaged("chat_template.jinja", None), "judge_options.model: expected a chat template in "),
        (
            damaged("model.safetensors", b"version https"),
            "model.safetensors: expected a whole safetensors file (no Git",
        ),
    ],
)
def test_a_judges_folder_is_looked_at_before_anything_starts(
    tiny_model: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]], expected: str
) -> None:
    folder = tmp_path / "judge"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).symlink_to(file)
    options = {"model": str(folder), **change(folder)}
    with pytest.raises(UserError) as caught:
        build("anah", {"judge_options": options})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_judge_that_travels(tiny_model: Path) -> None:
    judge: Any = VllmJudge(str(tiny_model), tensor_parallel_size=2)
    assert judge.num_gpus == 2 and len(pickle.dumps(judge)) < 2000  # without the tokenizer
    assert VllmJudge(str(tiny_model), device="cpu").num_gpus == 0
    assert VllmJudge(str(tiny_model), max_model_len=64).max_model_len == 64
