"""Replies of a judge on disk, an append-only file: what was asked once is not asked again after a kill.

Everything that is made of the replies is computed again from them, so the file is the only state. Its first line says
whose replies they are. A kill can only tear its last line.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import DataError
from maskdpo_ray.records import Record, decode, encode_line, to_json
from maskdpo_ray.store.files import AppendFile, read_lines

TOGETHER = 64
"""Replies that are waited for at once."""
Conversation = Sequence[Mapping[str, str]]


class Asked(Record):
    """Who was asked: the first line."""

    judge: str | None
    options: dict[str, Any]


class Replied(Record):
    """A reply, None if it can't be taken for one."""

    key: str
    """SHA-256 of the conversation and the longest reply."""
    text: str | None


class ReplyLog:
    """A context manager that holds the file; other processes can't write it meanwhile."""

    def __init__(self, path: Path, asked: Asked, ask: Callable[[Conversation, int], str | None]) -> None:
        """Read what an earlier attempt left.

        `ask` gives the reply to a conversation, of at most so many tokens; it is called in several threads at once.

        Raises DataError when the file holds replies of another judge, RunFolderError when it is damaged.
        """
        self.path = path
        self._asked = Asked(asked.judge, json.loads(json.dumps(asked.options)))
        self._ask = ask
        self._replies: dict[str, str | None] = {}
        self._file: AppendFile | None = None
        self._pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="reply")
        self._writing = threading.Lock()

    def __enter__(self) -> ReplyLog:
        self._file = AppendFile(self.path)
        try:
            self._file.hold()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # What has been asked is waited for, and kept.
        self._pool.shutdown(cancel_futures=True)
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._replies)

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[str | None]:
        """The reply to each conversation, in order; a new one is on the disk as soon as it has come.

        May be called from several threads.

        Raises AnnotatorError when the judge fails, RunFolderError for a full disk.
        """
        if self._file is None:
            raise RuntimeError("the log is not entered: use `with ReplyLog(...) as log`")
        keys = [_key(conversation, max_tokens) for conversation in conversations]
        new = {key: each for key, each in zip(keys, conversations, strict=True) if key not in self._replies}
        # All of them are waited for: one that fails takes no other along.
        futures = [self._pool.submit(self._take, key, each, max_tokens) for key, each in new.items()]
        wait(futures)
        for future in futures:
            future.result()
        return [self._replies[key] for key in keys]

    def _take(self, key: str, conversation: Conversation, max_tokens: int) -> None:
        assert self._file is not None
        text = self._ask(conversation, max_tokens)
        with self._writing:
            if key not in self._replies:  # another thread may have asked the same meanwhile
                self._file.append(encode_line(to_json(Replied(key, text))), durable=True)
                self._replies[key] = text

    def _read(self) -> None:
        assert self._file is not None
        end, first = 0, None
        for value, line in read_lines(self.path, _parsed):
            if first is None:
                first = value
            elif isinstance(value, Replied):
                self._replies[value.key] = value.text
            end += len(line)
        self._file.cut(end)
        if first is None:
            self._file.append(encode_line(to_json(self._asked)), durable=True)
        elif first != self._asked:
            raise DataError(
                f"{self.path}: expected replies of {to_json(self._asked)}, got those of {to_json(first)}; "
                "give the options back, or choose another folder"
            )


def _parsed(line: bytes) -> Asked | Replied:
    return decode(Asked, line) if "judge" in decode(dict, line) else decode(Replied, line)


def _key(conversation: Conversation, max_tokens: int) -> str:
    return hashlib.sha256(json.dumps([list(map(dict, conversation)), max_tokens]).encode()).hexdigest()
