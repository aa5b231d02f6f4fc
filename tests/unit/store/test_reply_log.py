"""The log of a judge's replies: asked once, kept over a kill, of one judge."""

from __future__ import annotations

from collections.abc import Sequence
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

    def __call__(self, conversations: Sequence[Conversation], max_tokens: int) -> list[str | None]:
        if len(self.asked) + len(conversations) > self._most:
            raise AnnotatorError("no reply")
        texts = [conversation[0]["content"] for conversation in conversations]
        self.asked += texts
        return [None if text == "?" else f"{text}é\n" for text in texts]


def ask(log: ReplyLog, *texts: str, max_tokens: int = 9) -> list[str | None]:
    return log.ask([[{"role": "user", "content": text}] for text in texts], max_tokens)


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    echo = Echo()
    with ReplyLog(tmp_path / "r.jsonl", JUDGE, echo) as log:
        assert ask(log, "a", "?", "a") == ["aé\n", None, "aé\n"]
        assert ask(log, "?", "b") == [None, "bé\n"]
        assert echo.asked == ["a", "?", "b"] and len(log) == 3
    with ReplyLog(tmp_path / "r.jsonl", JUDGE, echo) as log:
        assert ask(log, "b", "a") == ["bé\n", "aé\n"] and len(echo.asked) == 3
        ask(log, "a", max_tokens=8)  # a longer reply may be allowed
        assert len(echo.asked) == 4


def test_what_a_failure_or_a_kill_leaves_is_kept(tmp_path: Path) -> None:
    file, whole = tmp_path / "r.jsonl", tmp_path / "whole.jsonl"
    with ReplyLog(whole, JUDGE, Echo()) as log:
        ask(log, "a")
        ask(log, "b", "c")
    with pytest.raises(AnnotatorError), ReplyLog(file, JUDGE, Echo(most=2)) as log:
        ask(log, "a")
        ask(log, "b", "c")
    for torn in range(0, len(whole.read_bytes()) + 1, 5):
        file.write_bytes(whole.read_bytes()[:torn])
        with ReplyLog(file, JUDGE, Echo()) as log:
            ask(log, "a")
            ask(log, "b", "c")
        assert file.read_bytes() == whole.read_bytes()


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
