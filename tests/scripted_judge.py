"""A judge with an OpenAI-compatible endpoint on loopback whose replies follow a table."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNPARSED, UNVERIFIABLE

CUT, REFUSED = object(), object()
"""Replies that never end, and conversations that the endpoint won't take."""
PROBABILITY = 0.75
MODEL = "scripted"

PASSAGES = {"en": "A passage.\nAnother {one}.", "zh": "一段。"}
SCRIPT: dict[str, list[tuple[str, list[Any]]]] = {
    "en": [
        (NO_FACT, ["No claim"]),
        (UNVERIFIABLE, ["Has a claim", "no passage."]),
        (NO_HALLUCINATION, ["Has a claim", PASSAGES["en"], "Consistent"]),
        (CONTRADICTORY, [' "HAS A CLAIM". ', PASSAGES["en"], "<contradictory>\n"]),
        (UNVERIFIABLE, ["Has a claim", PASSAGES["en"], "Unverifiable"]),
        (UNPARSED, ["It has a claim, I think"]),
        (UNPARSED, ["Has a claim", ""]),
        (UNPARSED, ["Has a claim", PASSAGES["en"], CUT]),
        (UNPARSED, ["Has a claim", CUT]),
        (UNPARSED, [REFUSED]),
    ],
    "zh": [
        (NO_FACT, ["无可查内容"]),
        (UNVERIFIABLE, ["有可查内容", "“无相关段落”。"]),
        (NO_HALLUCINATION, ["有可查内容", PASSAGES["zh"], "一致"]),
        (CONTRADICTORY, ["「有可查内容」", PASSAGES["zh"], "　相反！"]),
        (UNVERIFIABLE, ["有可查内容", PASSAGES["zh"], "无从查证"]),
        (UNPARSED, ["没有"]),
        (UNPARSED, [" \n"]),
        (UNPARSED, ["有可查内容", PASSAGES["zh"], "不一致"]),
        (UNPARSED, ["有可查内容", PASSAGES["zh"], CUT]),
        (UNPARSED, [REFUSED]),
    ],
}
"""Language -> for sentence number n, at n modulo its length: the label to expect and the reply to each turn."""

_NUMBER = re.compile(r"Claim (\d+)|第(\d+)条")


def sentence(language: str, number: int) -> str:
    """A sentence that the script knows."""
    return f"Claim {number} is here." if language == "en" else f"第{number}条在此。"


def reply(messages: list[dict[str, str]]) -> Any:
    """By the sentence in the first message and the number of turns so far."""
    english, chinese = _NUMBER.search(messages[0]["content"]).groups()
    script = SCRIPT["en" if english else "zh"]
    _, replies = script[int(english or chinese) % len(script)]
    return replies[len(messages) // 2]


@dataclass
class ScriptedServer:
    """A context manager; `fail_every` answers HTTP 503 to every n-th request, `fail_first` to the first n, `status` to
    all but the first one."""

    fail_every: int = 0
    fail_first: int = 0
    status: int | None = None
    gives_logprobs: bool = True
    together: int = 1
    """After the first one, requests are answered when so many are under way."""
    raw: tuple[bytes, str] | None = None
    """Body and content type of every answer, instead."""
    script: Callable[[list[dict[str, str]]], Any] = reply
    """Reply to a conversation."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of those that were answered, with their `authorization`."""
    most_at_once: int = 0
    num_failed: int = 0

    def __enter__(self) -> ScriptedServer:
        self._lock = threading.Lock()
        self._seen = self._at_once = 0
        self._gate = threading.Barrier(self.together)
        handler = type("Handler", (_Handler,), {"script": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self._seen += 1
            is_first = self._seen == 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fails = self._seen <= self.fail_first or (self.fail_every and self._seen % self.fail_every == 0)
            self.num_failed += bool(fails)
            if not fails:
                self.requests.append({**body, "authorization": authorization})
        try:
            if fails:
                return 503, _error("busy")
            if not is_first:
                self._gate.wait(10)
            if self.status and not is_first:
                return self.status, _error("said\nno")
            return self._reply(body)
        finally:
            with self._lock:
                self._at_once -= 1

    def _reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        said = "Hi." if body["messages"][0]["content"] == "Hello." else self.script(body["messages"])
        if said is REFUSED:
            return 400, _error("maximum context length")
        is_cut = said is CUT
        text = "on and " * limit if is_cut else said
        logprobs = None
        if self.gives_logprobs and body.get("logprobs"):
            token = {"token": text, "logprob": math.log(PROBABILITY), "bytes": None, "top_logprobs": []}
            logprobs = {"content": [token], "refusal": None}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text or None},
            "finish_reason": "length" if is_cut else "stop",
            "logprobs": logprobs,
        }
        return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "code": None, "param": None}}


class _Handler(BaseHTTPRequestHandler):
    script: ScriptedServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet an answer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, content = self.script.answer(body, self.headers["Authorization"])
        data, kind = self.script.raw or (json.dumps(content).encode(), "application/json")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is for the tests."""
