"""Encoding of text without control tokens, so that a user's `<|im_end|>` can't end a turn.

Chat templates paste messages between control tokens, and tokenizers encode the text of a control token as that token.
So each such text in a message is broken by a mark while it is rendered and split, and then encoded as words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.errors import RecordError
from maskdpo_ray.models.token_spans import added_tokens, special_ids

_PRIVATE = range(0xE000, 0xF8FF)
"""Code points without meaning; one that a conversation lacks becomes its mark."""


@dataclass(frozen=True)
class Marked:
    """A conversation in which the texts of control tokens are broken by a mark."""

    conversation: list[Any]
    mark: str
    first: str
    """One of the texts of control tokens found in it."""


class PlainText:
    """A Hugging Face tokenizer that encodes message text as words, never as control tokens."""

    def __init__(self, tokenizer: Any, ends: Collection[int], tags: Collection[str]) -> None:
        """`ends`: control ids besides special tokens. `tags`: thinking tags, which answers may have as tokens."""
        self._tokenizer = tokenizer
        self._ends = set(ends)
        added = added_tokens(tokenizer)
        special = special_ids(tokenizer, added) | self._ends
        steering = {text for token, text in added.items() if token in special}
        self._added = _any_of(set(added.values()))
        self._in_prompt = _any_of(steering)
        self._in_answer = _any_of(steering - set(tags))

    def marked(self, conversation: Sequence[Mapping[str, Any]], text: str, num_answers: int) -> Marked | None:
        """The conversation, rendered as `text`, with marks; None if it contains no text of a control token.

        The last `num_answers` messages are answers.
        """
        patterns = [self._in_prompt] * (len(conversation) - num_answers) + [self._in_answer] * num_answers
        turns = list(zip(conversation, patterns, strict=True))
        named = [found for each, pattern in turns if pattern for found in _search(each, pattern)]
        if not named:
            return None
        mark = next(chr(code) for code in _PRIVATE if chr(code) not in text)

        def broken(match: re.Match[str]) -> str:
            return f"{match[0][0]}{mark}{match[0][1:]}"

        return Marked([mapped(each, partial(p.sub, broken)) if p else each for each, p in turns], mark, named[0])

    def ids(self, shown: str, text: str, marked: Marked) -> list[int]:
        """Token ids of `text`; `shown` is the same conversation rendered with marks.

        Raises RecordError if the template transforms such texts, or the tokenizer can't encode them as words.
        """
        pieces = list(self._pieces(shown))
        # A tokenizer that encodes the pieces like the whole does so without the marks, too.
        by_piece = [token for piece in pieces for token in as_is(self._tokenizer, piece)]
        if shown.replace(marked.mark, "") != text or by_piece != as_is(self._tokenizer, shown):
            raise _not_plain(marked.first)
        found: list[int] = []
        for piece in pieces:
            is_broken = marked.mark in piece
            found += self._as_words(piece.replace(marked.mark, "")) if is_broken else as_is(self._tokenizer, piece)
        return found

    def of_answer(self, text: str) -> list[int]:
        """Token ids of an answer alone. Raises RecordError as `ids` does."""
        if self._in_answer is None or not self._in_answer.search(text):
            return as_is(self._tokenizer, text)
        return self._as_words(text)

    def _pieces(self, text: str) -> Iterator[str]:
        """`text` split at its added tokens, each of which is a separate piece."""
        at = 0
        for match in self._added.finditer(text) if self._added else ():
            yield text[at : match.start()]
            yield match[0]
            at = match.end()
        yield text[at:]

    def _as_words(self, text: str) -> list[int]:
        given = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        ids: list[int] = self._tokenizer.encode(text, **given)
        steering = special_ids(self._tokenizer, ids) | self._ends
        if found := [token for token in ids if token in steering]:
            raise _not_plain(str(self._tokenizer.convert_ids_to_tokens(found[0])))
        return ids


def as_is(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text, control tokens included."""
    # Without its warning about long texts, which callers refuse.
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False) if text else []
    return [int(token) for token in ids]


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Map a function over every text of a message, or a part of one; roles stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: part if key == "role" else mapped(part, change) for key, part in value.items()}
    return [mapped(part, change) for part in value] if isinstance(value, (list, tuple)) else value


def _search(message: Mapping[str, Any], pattern: re.Pattern[str]) -> list[str]:
    found: list[str] = []

    def look(text: str) -> str:
        found.extend(pattern.findall(text))
        return text

    mapped(message, look)
    return found


def _any_of(texts: set[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(texts, key=lambda text: (-len(text), text))))) if texts else None


def _not_plain(name: str) -> RecordError:
    return RecordError(
        f"expected text that can be told from special tokens, got {name!r}, which the tokenizer can't read as words",
        Reason.SPECIAL_TOKEN_TEXT,
    )
