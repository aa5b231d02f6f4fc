"""The log of a judge's replies: asked once, kept over a kill, of one judge."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskdpo_ray.errors import AnnotatorError, DataError, RunFolderError
from maskdpo_ray.store.reply_log import Asked, Conversation, ReplyLog

JUDGE = Asked("http", {"model": "m", "stop": ("a", "b")})


class Echo:
    """Replies with what it is asked, None to "?"; fails after `most` conversations."""

    def __init__(self, most: int = 99) -> None:
        self.asked: list[str] = []
        self._most = most

    def __call__(self, conversation: Conversation, max_tokens: int) -> str | None:
        if len(self.asked) >= self._most:
            raise AnnotatorError("no reply")
        text = conversation[0]["content"]
        self.asked.append(text)
        return None if text == "?" else f"{text}é\n"


def ask(log: ReplyLog, *texts: str, max_tokens: int = 9) -> list[str | None]:
    return log.ask([[{"role": "user", "content": text}] for text in texts], max_tokens)


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    echo = Echo()
    with ReplyLog(tmp_path / "r.jsonl", JUDGE, echo) as log:
        assert ask(log, "a", "?", "a") == ["aé\n", None, "aé\n"]
        assert ask(log, "?", "b") == [None, "bé\n"]
        assert sorted(echo.asked) == ["?", "a", "b"] and len(log) == 3
    with ReplyLog(tmp_path / "r.jsonl", JUDGE, echo) as log:
        assert ask(log, "b", "a") == ["bé\n", "aé\n"] and len(echo.asked) == 3
        ask(log, "a", max_tokens=8)  # a longer reply may be allowed
        assert len(echo.asked) == 4


def test_what_a_failure_or_a_kill_leaves_is_kept(tmp_path: Path) -> None:
    file, whole = tmp_path / "r.jsonl", tmp_path / "whole.jsonl"
    with ReplyLog(whole, JUDGE, Echo()) as log:
        ask(log, "a")
        ask(log, "b")
        ask(log, "c")
    with pytest.raises(AnnotatorError), ReplyLog(file, JUDGE, Echo(most=2)) as log:
        ask(log, "a")
        ask(log, "b")
        ask(log, "c")
    assert file.read_bytes().count(b"\n") == 3
    for torn in range(0, len(whole.read_bytes()) + 1, 5):
        file.write_bytes(whole.read_bytes()[:torn])
        with ReplyLog(file, JUDGE, Echo()) as log:
            ask(log, "a")
            ask(log, "b")
            ask(log, "c")
        assert file.read_bytes() == whole.read_bytes()


def test_a_reply_is_on_the_disk_when_it_comes_though_others_are_waited_for(tmp_path: Path) -> None:
    file, go = tmp_path / "r.jsonl", threading.Event()

    def slow(conversation: Conversation, max_tokens: int) -> str:
        text = conversation[0]["content"]
        if text == "slow":
            go.wait(10)
        if text == "bad":
            raise AnnotatorError("no reply")
        return text

    with ReplyLog(file, JUDGE, slow) as log:
        with ThreadPoolExecutor(1) as other:
            asked = other.submit(ask, log, "slow", "bad", "quick")
            deadline = time.monotonic() + 10
            while file.read_bytes().count(b"\n") < 2 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert b'"quick"' in file.read_bytes() and not asked.done()
            go.set()
            with pytest.raises(AnnotatorError):
                asked.result()
        assert file.read_bytes().count(b"\n") == 3  # a failure takes no other reply along
        assert ask(log, "slow", "quick") == ["slow", "quick"]


def test_what_was_asked_is_kept_when_the_log_is_left(tmp_path: Path) -> None:
    file, entered, go = tmp_path / "r.jsonl", threading.Event(), threading.Event()

    def slow(conversation: Conversation, max_tokens: int) -> str:
        entered.set()
        go.wait(10)
        return "late"

    with ThreadPoolExecutor(1) as other:
        with pytest.raises(KeyboardInterrupt), ReplyLog(file, JUDGE, slow) as log:
            asked = other.submit(ask, log, "a")
            assert entered.wait(10)
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt
        assert asked.result() == ["late"] and b'"late"' in file.read_bytes()
        with pytest.raises(RuntimeError):
            ask(log, "b")


def test_another_judge_or_process_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    with ReplyLog(file, JUDGE, Echo()), pytest.raises(RunFolderError, match="another process writes this file"):
        ReplyLog(file, JUDGE, Echo()).__enter__()
    with pytest.raises(
        DataError, match=r"r.jsonl: expected replies of \{'judge': 'vllm'.* got those of \{'judge': 'http"
    ):
        ReplyLog(file, Asked("vllm", {}), Echo()).__enter__()
    file.write_text('{"key": 3}\n{"key": 4}\n')
    with pytest.raises(RunFolderError, match="r.jsonl, line 1: field 'key': expected str, got int 3|missing field"):
        ReplyLog(file, JUDGE, Echo()).__enter__()
