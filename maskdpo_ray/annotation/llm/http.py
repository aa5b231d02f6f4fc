"""A judge behind any OpenAI-compatible HTTP endpoint."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from maskdpo_ray.annotation.llm import thoughts
from maskdpo_ray.annotation.llm.judge import Conversation, Reply, require, require_count, require_reply_options
from maskdpo_ray.errors import AnnotatorError, OptionError, one_line
from maskdpo_ray.terminal import note

_REFUSED = (400, 413, 422)
"""HTTP statuses about one conversation (too long, filtered), not about the endpoint."""
_BUSY = (408, 409, 429)
"""HTTP statuses, beside 5xx, of an endpoint that may reply when it is asked again."""
_RETRIES_AT_START = 3
"""Retries of each try before anything has replied: over in seconds."""
_POLL_S = 2.0
"""Between two tries of a start."""
_CONNECT_S = 5.0
_OURS = frozenset(("logprobs", "max_tokens", "messages", "model", "stream", "temperature"))
"""Request fields not allowed in `extra_body`: they have their own options, or replies depend on them."""
_INSTEAD = {
    "max_tokens": "max_completion_tokens: N, sent in place of max_tokens",
    "max_completion_tokens": "max_completion_tokens: null, for max_tokens to be sent",
    "temperature": "temperature: null, for none to be sent",
    "logprobs": "logprobs: false, for none to be asked for",
    "stop": "stop: null, for none to be sent",
}
"""Request field that an endpoint may refuse -> the option that leaves it out."""
_HOLDS_KEY = re.compile(
    r"api[-_ ]?key|authorization|bearer|secret|password|passwd|credential"
    r"|(?:access|auth|id)[-_ ]?token|\A(?:key|token)\Z",
    re.IGNORECASE,
)
_IS_KEY = re.compile(r"\A\s*(?:Bearer\s|sk-|hf_|ghp_|gsk_|xai-|AIza)")


class HttpJudge:
    """Asks through the `openai` package, whose retries back off, add jitter and heed Retry-After."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        max_concurrent: int = 32,
        requests_per_minute: int | None = None,
        timeout_s: float = 120,
        max_retries: int = 12,
        start_timeout_s: float = 120,
        logprobs: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        temperature: float | None = 0,
        stop: str | Sequence[str] | None = None,
        max_completion_tokens: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        thinking: Mapping[str, str] | None = None,
    ) -> None:
        """Check the options; nothing is sent.

        Args:
            base_url: URL including the version, as in "http://127.0.0.1:8000/v1".
            model: the model's name at the endpoint.
            api_key_env: environment variable that holds the key, on annotation nodes; None: no key is sent.
            max_concurrent: concurrent requests per actor.
            requests_per_minute: rate limit per actor, retries included; None: unlimited.
            timeout_s: timeout of one request.
            max_retries: retries after a connection error, timeout, or HTTP 408, 409, 429 or 5xx; 12 take over a minute.
            start_timeout_s: longest that a start waits for an endpoint that refuses connections or replies with such a
                status, as one that still loads its model does; 0: not at all.
            logprobs: whether to request log-probabilities, for `confidence`; some endpoints refuse that.
            extra_body: further fields of every request; must not hold a key, as the config is written to files.
            temperature: 0 is greedy; None: not sent, for endpoints that accept only their default.
            stop: one or several stop strings.
            max_completion_tokens: longest reply with thinking, sent under this name in place of `max_tokens`, which
                newer endpoints refuse; None: `max_tokens` is sent, with the reply's limit.
            chat_template_kwargs: arguments of the model's chat template, in the field that vLLM and SGLang read.
            thinking: {open, close}, tags of a thinking block in addition to the known ones.

        Raises:
            OptionError: one line, about any of these.
        """
        if isinstance(base_url, str) and "@" in base_url:
            raise OptionError(
                "base_url: expected an address without a user and a password, got one with them (not shown; "
                "api_key_env names the variable that holds a key)"
            )
        require(_is_address(base_url), "base_url", "an address like http://127.0.0.1:8000/v1", base_url)
        is_base = not urlsplit(base_url).path.rstrip("/").endswith("/chat/completions")
        require(is_base, "base_url", "an address up to /v1, without /chat/completions", base_url)
        is_model = isinstance(model, str) and model.strip() != ""
        require(is_model, "model", "the endpoint's name of a model", model)
        is_name = api_key_env is None or (isinstance(api_key_env, str) and api_key_env.isidentifier())
        if not is_name:
            raise OptionError(
                "api_key_env: expected the name of an environment variable, got what can't be one "
                "(not shown, as it may be the key itself)"
            )
        require_count("max_concurrent", max_concurrent)
        if requests_per_minute is not None:
            require_count("requests_per_minute", requests_per_minute)
        is_time = type(timeout_s) in (int, float) and 0 < timeout_s <= 86400
        require(is_time, "timeout_s", "seconds above 0, at most a day", timeout_s)
        is_time = type(start_timeout_s) in (int, float) and 0 <= start_timeout_s <= 86400
        require(is_time, "start_timeout_s", "seconds from 0, at most a day", start_timeout_s)
        is_number = type(max_retries) is int and max_retries >= 0
        require(is_number, "max_retries", "a whole number, 0 or more", max_retries)
        require(type(logprobs) is bool, "logprobs", "true or false", logprobs)
        self.gives_logprobs = logprobs
        is_mapping = extra_body is None or isinstance(extra_body, Mapping)
        # A string may be a misplaced key.
        require(is_mapping, "extra_body", "a mapping", "text" if isinstance(extra_body, str) else extra_body)
        ours = sorted(_OURS.intersection(extra_body or ()))
        require(not ours, "extra_body", f"none of {', '.join(sorted(_OURS))}", ours)
        for field in _key_fields(extra_body or {}):
            raise OptionError(
                f"extra_body: expected no key, as it is written to files, got one in {field} (not shown; "
                "api_key_env names the variable that holds a key)"
            )
        is_heat = temperature is None or (type(temperature) in (int, float) and 0 <= temperature <= 2)
        require(is_heat, "temperature", "0 to 2, or null", temperature)
        require_reply_options(stop, max_completion_tokens, chat_template_kwargs)
        options = {
            "stop": stop,
            "max_completion_tokens": max_completion_tokens,
            "chat_template_kwargs": chat_template_kwargs,
        }
        both = [name for name, value in options.items() if value is not None and name in (extra_body or {})]
        require(not both, "extra_body", "none of the options that are given beside it", both)
        self.max_completion_tokens = max_completion_tokens
        self.thinking = thoughts.from_option(thinking)
        self._base_url = base_url
        self._api_key_env = api_key_env
        self._max_concurrent = max_concurrent
        self._interval_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._timeout_s, self._max_retries, self._start_timeout_s = timeout_s, max_retries, start_timeout_s
        body = dict(extra_body or {})
        if chat_template_kwargs is not None:
            body["chat_template_kwargs"] = dict(chat_template_kwargs)
        self._request: dict[str, Any] = {"model": model, "extra_body": body}
        sent = {"temperature": temperature, "stop": stop, "logprobs": logprobs or None}
        self._request |= {name: value for name, value in sent.items() if value is not None}
        self._key: str | None = None
        self._client: Any = None
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Send one small request. Raises AnnotatorError when it fails, OptionError when the key isn't set.

        An endpoint that refuses connections or is busy is asked again until `start_timeout_s`, and a line says so; a
        host that is not known fails within seconds.
        """
        from openai import DefaultHttpxClient, OpenAI, Timeout

        key = "none"  # a client without one takes OPENAI_API_KEY, which is not for this endpoint to see
        if self._api_key_env is not None:
            key = os.environ.get(self._api_key_env, "")
            if not key:
                raise OptionError(
                    f"api_key_env: expected a key in the environment variable {self._api_key_env}, got none"
                )
            self._key = key
        # The package repeats requests by itself: only below it can all of them be held back.
        http_client = DefaultHttpxClient(event_hooks={"request": [_Pace(self._interval_s).wait]})
        client = OpenAI(
            base_url=self._base_url,
            api_key=key,
            http_client=http_client,
            timeout=Timeout(self._timeout_s, connect=min(self._timeout_s, _CONNECT_S)),
            max_retries=self._max_retries,
        )
        self._client = client.with_options(max_retries=min(self._max_retries, _RETRIES_AT_START))
        self._pool = ThreadPoolExecutor(self._max_concurrent, thread_name_prefix="judge")
        self._await_reply()
        self._client = client

    def _await_reply(self) -> None:
        """Ask until something replies. Raises the last AnnotatorError at `start_timeout_s`, another one at once."""
        deadline, has_said = time.monotonic() + self._start_timeout_s, False
        while True:
            try:
                self._choice([{"role": "user", "content": "Hello."}], 1, is_first=True)
                return
            except _NotReady as error:
                if time.monotonic() + _POLL_S > deadline:
                    raise AnnotatorError(str(error)) from None
                if not has_said:
                    note(f"{error}; asked again for {self._start_timeout_s:g} s (judge_options.start_timeout_s)")
                    has_said = True
                time.sleep(_POLL_S)

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        """See `Judge.ask`; conversations that the endpoint refuses have its reason as their fault."""
        assert self._pool is not None, "start() comes before ask()"
        futures = [self._pool.submit(self._reply, conversation, max_tokens) for conversation in conversations]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def _reply(self, conversation: Conversation, max_tokens: int) -> Reply:
        try:
            choice = self._choice(conversation, max_tokens)
        except _Refused as error:
            return Reply("", fault=str(error))
        content = choice.logprobs.content if choice.logprobs else None
        # Thinking that the endpoint returns separately is not part of the reply, but `logprobs` includes its tokens.
        has_thought = any(getattr(choice.message, name, None) for name in ("reasoning_content", "reasoning"))
        (limit,) = self._limit(max_tokens).values()
        return Reply(
            choice.message.content or "",
            sum(token.logprob for token in content) if content and not has_thought else None,
            f"cut off at {limit} tokens" if choice.finish_reason == "length" else None,
        )

    def _limit(self, max_tokens: int) -> dict[str, int]:
        """The field that limits a reply's length."""
        if self.max_completion_tokens is None:
            return {"max_tokens": max_tokens}
        return {"max_completion_tokens": self.max_completion_tokens}

    def _choice(self, conversation: Conversation, max_tokens: int, is_first: bool = False) -> Any:
        """The endpoint's only choice. Raises _Refused or another AnnotatorError."""
        from openai import APIConnectionError, APIStatusError

        where = f"judge at {self._base_url}: expected a reply"
        try:
            completion = self._client.chat.completions.create(
                messages=list(conversation), **self._limit(max_tokens), **self._request
            )
        # Without their causes, which hold connections and can't be pickled on their way to the driver.
        except APIStatusError as error:
            is_busy = is_first and (error.status_code in _BUSY or error.status_code >= 500)
            kind = _Refused if error.status_code in _REFUSED else _NotReady if is_busy else AnnotatorError
            reason = self._said(error.message).removeprefix(f"Error code: {error.status_code} - ")
            hint = self._hint(error.message, is_first) if kind is _Refused else ""
            raise kind(f"{where}, got HTTP {error.status_code}: {reason}{hint}") from None
        except APIConnectionError as error:
            reason = self._said(error.__cause__ or error)
            kind = _NotReady if is_first and _is_refused(error) else AnnotatorError
            raise kind(f"{where}, got after {self._client.max_retries} retries: {reason}") from None
        except ValueError as error:
            raise AnnotatorError(f"{where} in JSON, got: {self._said(error)}") from None
        choices = getattr(completion, "choices", None)
        if not choices or choices[0].message is None:
            raise AnnotatorError(f"{where} of a chat model, got {self._said(repr(completion))}; is base_url right?")
        return choices[0]

    def _hint(self, message: str, is_first: bool) -> str:
        """The options that leave out the fields that an endpoint's refusal names, or may mean if it is the first."""
        sent = [name for name in _INSTEAD if name in {**self._limit(1), **self._request}]
        named = [name for name in sent if re.search(rf"\b{name}\b", message)] or sent * is_first
        return f"; judge_options: {'; '.join(_INSTEAD[name] for name in named)}" if named else ""

    def _said(self, what: object) -> str:
        """Text of the endpoint for an error line, without the key that it was sent and may repeat."""
        text = str(what)
        return one_line(text.replace(self._key, "***") if self._key else text)

    def close(self) -> None:
        """End the connections."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._client.close()


def _key_fields(value: object, where: str = "extra_body") -> Iterator[str]:
    """Dotted names of the fields that hold or seem to hold a key, at any depth."""
    if isinstance(value, Mapping):
        for name, held in value.items():
            if _HOLDS_KEY.search(str(name)) and held is not None and not isinstance(held, (bool, int, float)):
                yield f"{where}.{name}"
            yield from _key_fields(held, f"{where}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, held in enumerate(value):
            yield from _key_fields(held, f"{where}[{number}]")
    elif isinstance(value, str) and _IS_KEY.match(value):
        yield where


def _is_address(value: object) -> bool:
    if not isinstance(value, str) or any(character.isspace() for character in value):
        return False
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # a broken IPv6 address, a port out of range
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


class _Pace:
    """Lets one caller through every `interval_s` seconds, in the order in which they come."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, _: object) -> None:
        """Return when it is the caller's turn."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._interval_s
        time.sleep(max(0.0, turn - time.monotonic()))


class _Refused(AnnotatorError):
    """The endpoint won't take this conversation."""


class _NotReady(AnnotatorError):
    """Nobody listens at the endpoint yet, or it can't reply now."""


def _is_refused(error: BaseException | None) -> bool:
    """Whether a host refused a connection, which may still start what will listen there."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False
