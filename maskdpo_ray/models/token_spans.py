"""Which characters of a text each of its sampled token ids spells.

The ids are never re-encoded. Each one's vocabulary piece is turned into the bytes that it stands
for, by each of the ways that tokenizers write bytes down, until the bytes together are exactly the
text. So no tokenizer class has to be known, and a wrong guess can't pass: it spells another text.
"""

from __future__ import annotations

import os.path
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate, groupby
from typing import Any
from weakref import WeakKeyDictionary

from maskdpo_ray.errors import MaskError

Piece = str | bytes
_REPLACEMENT = "\ufffd"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_spans(
    tokenizer: Any, token_ids: Sequence[int], text: str, special: set[int] | None = None, stopped: bool = False
) -> list[tuple[int, int]]:
    """Characters [start, end) of `text` that each token spells, at least in part.

    A token that holds part of a character has the whole character, so the ranges of neighbours
    overlap there. A token that spells nothing (a special token that the text leaves out, the white
    space that SentencePiece strips at the start, bytes of a last character that was cut off) has an
    empty range at its place.

    Args:
        tokenizer: a Hugging Face tokenizer (fast or slow), a `sentencepiece.SentencePieceProcessor`,
            one of mistral-common's, a `tokenizers.Tokenizer` or a `tiktoken.Encoding`.
        token_ids: as sampled.
        text: what they decode to, with special tokens or without, no clean-up of spaces; or what an
            engine streams, which shows neither the token at which it stopped nor the last tokens when
            they end within a character.
        special: result of `special_ids`; None: computed here.
        stopped: the last token may be any at which an engine was told to stop, and which it left out.

    Returns:
        One (start, end) per id, starts and ends not decreasing.

    Raises:
        MaskError: when the ids do not spell `text`.
    """
    ids = list(map(int, token_ids))
    special = special_ids(tokenizer, ids) if special is None else special
    pieces = _pieces(tokenizer, ids, special)
    closest = ""
    without_cut: list[bytes] | None = None

    def agreeing(decoded: str) -> int:
        return len(os.path.commonprefix([decoded, text]))

    for hidden in _hidden(ids, special, bool(ids) and (stopped or ids[-1] in added_tokens(tokenizer))):
        shown = ["" if hide else piece for piece, hide in zip(pieces, hidden, strict=True)]
        for spelled in _readings(shown, text):
            decoded = b"".join(spelled).decode("utf-8", "replace")
            if decoded == text:
                return _ranges(spelled, text)
            without_cut = without_cut or _without_cut(spelled, text)
            closest = max(closest or decoded, decoded, key=agreeing)
    if without_cut is not None:
        return _ranges(without_cut, text)
    at = agreeing(closest)
    expected, got = text[at : at + 20], closest[at : at + 20]
    alike = unicodedata.normalize("NFKC", expected)[:1] == unicodedata.normalize("NFKC", got)[:1]
    written = ascii if alike else repr  # characters that look the same are told apart by their codes
    raise MaskError(
        f"token ids do not spell the text: they differ from character {at} on, "
        f"expected {written(expected)}, got {written(got)}"
    )


def special_ids(tokenizer: Any, token_ids: Iterable[int]) -> set[int]:
    """Those of `token_ids` that the tokenizer calls special (control tokens such as EOS).

    It is asked once for each id.
    """
    present, known = set(map(int, token_ids)), _known(tokenizer).is_special
    unknown = present - known.keys()
    if unknown:
        special = _asked_special_ids(_unwrapped(tokenizer), unknown)
        known.update((token, token in special) for token in unknown)
    return {token for token in present if known[token]}


def _asked_special_ids(tokenizer: Any, present: set[int]) -> set[int]:
    special = {*getattr(tokenizer, "all_special_ids", ()), *getattr(tokenizer, "special_ids", ())}
    # Hugging Face decodes without every added token that is flagged special, named ones or not.
    special |= {token for token, content in _added(tokenizer).items() if content.special}
    if hasattr(tokenizer, "IsControl"):
        special |= {token for token in present if 0 <= token < len(tokenizer) and tokenizer.IsControl(token)}
    if hasattr(tokenizer, "special_tokens_set"):
        special |= {tokenizer.encode_single_token(content) for content in tokenizer.special_tokens_set}
    return special & present


def added_tokens(tokenizer: Any) -> dict[int, str]:
    """Id -> text of the tokens added to a Hugging Face vocabulary, flagged special or not; {} for other tokenizers.

    Cached.
    """
    known = _known(tokenizer)
    if known.added is None:
        known.added = {token: str(content.content) for token, content in _added(_unwrapped(tokenizer)).items()}
    return known.added


def _added(tokenizer: Any) -> dict[int, Any]:
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None and hasattr(tokenizer, "get_added_tokens_decoder"):
        added = tokenizer.get_added_tokens_decoder()
    return added or {}


def _unwrapped(tokenizer: Any) -> Any:
    """mistral-common's own tokenizer out of its wrappers, which lose bytes; others as they are."""
    inner = getattr(getattr(tokenizer, "tokenizer", tokenizer), "instruct_tokenizer", None)
    return tokenizer if inner is None else inner.tokenizer


def _pieces(tokenizer: Any, ids: Sequence[int], special: set[int]) -> list[Piece]:
    """Each id's vocabulary entry. Raises MaskError for an id that has none."""

    def piece(token: int) -> Piece | None:
        if hasattr(tokenizer, "id_to_byte_piece") and token not in special:  # mistral-common's Tekken
            return tokenizer.id_to_byte_piece(token)
        if hasattr(tokenizer, "id_to_piece"):  # sentencepiece and mistral-common's
            return tokenizer.id_to_piece(token)
        if hasattr(tokenizer, "id_to_token"):  # tokenizers
            return tokenizer.id_to_token(token)
        if hasattr(tokenizer, "decode_single_token_bytes"):  # tiktoken
            return tokenizer.decode_single_token_bytes(token)
        raise TypeError(f"can't read the vocabulary of a {type(tokenizer).__name__}")

    def checked(token: int, get: Callable[[int], Piece | None]) -> Piece:
        try:
            found = get(token)
        except (IndexError, KeyError, OverflowError, ValueError) as error:
            raise MaskError(f"token id {token} is not in the tokenizer's vocabulary ({error})") from error
        if found is None:
            raise MaskError(f"token id {token} is not in the tokenizer's vocabulary")
        return found

    known = _known(tokenizer).pieces
    unknown = set(ids) - known.keys()
    if unknown:
        tokenizer = _unwrapped(tokenizer)
        get = getattr(tokenizer, "convert_ids_to_tokens", piece)
        known.update((token, checked(token, get)) for token in unknown)
    return [known[token] for token in ids]


class _Known:
    """Cache of a tokenizer's data about ids: a query takes longer than all other work on an answer."""

    def __init__(self) -> None:
        self.pieces: dict[int, Piece] = {}
        self.is_special: dict[int, bool] = {}
        self.added: dict[int, str] | None = None


_known_by_tokenizer: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def _known(tokenizer: Any) -> _Known:
    try:
        return _known_by_tokenizer.setdefault(tokenizer, _Known())
    except TypeError:  # it can't be a key
        return _Known()


def _hidden(ids: Sequence[int], special: set[int], may_end: bool) -> Iterator[list[bool]]:
    """Alternatives for the tokens that a text leaves out: every special one; the last ones; none.

    An engine also leaves out the token at which it stopped, special or not: the last one, if it may be an end.
    """
    everywhere = [token in special for token in ids]
    yield everywhere
    if any(everywhere):
        num_shown = len(ids) - num_trailing(everywhere)
        yield [index >= num_shown for index in range(len(ids))]
        yield [False] * len(ids)
    if may_end and not everywhere[-1]:
        yield [*everywhere[:-1], True]
        yield [index == len(ids) - 1 for index in range(len(ids))]


def num_trailing(flags: Sequence[bool]) -> int:
    """How many of the last flags are set in a row."""
    return next((count for count, flag in enumerate(reversed(flags)) if not flag), len(flags))


def _readings(pieces: Sequence[Piece], text: str) -> Iterator[list[bytes]]:
    """The bytes of each token, by every way of writing bytes as vocabulary entries."""
    yield [_byte_level(piece) for piece in pieces]
    yield _at_start(_sentencepiece(pieces, whole_runs=False), text)
    yield _at_start(_sentencepiece(pieces, whole_runs=True), text)
    yield [_plain(piece) for piece in pieces]


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in of every byte: itself if printable Latin-1, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


@lru_cache(maxsize=2**17)
def _byte_level(piece: Piece) -> bytes:
    if isinstance(piece, bytes):
        return piece
    table = _byte_of_character()
    # Added tokens are written as they are, which shows when a character is not in the table.
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()


def _sentencepiece(pieces: Sequence[Piece], whole_runs: bool) -> list[bytes]:
    """U+2581 for a space, <0xHH> for a byte.

    Where a run of byte tokens is no UTF-8, SentencePiece's own decoder shows U+FFFD for each bad byte
    and Hugging Face's for every byte of the run (`whole_runs`).
    """
    spelled = [b""] * len(pieces)
    shown = [index for index, piece in enumerate(pieces) if piece]  # left-out tokens don't interrupt a run
    for is_byte, run in groupby(shown, key=lambda index: _byte(pieces[index]) is not None):
        indices = list(run)
        if is_byte:
            parts = _repaired(bytes(_byte(pieces[index]) or 0 for index in indices), whole_runs)
        else:
            parts = [_plain(pieces[index]).replace("\u2581".encode(), b" ") for index in indices]
        for index, part in zip(indices, parts, strict=True):
            spelled[index] = part
    return spelled


def _byte(piece: Piece) -> int | None:
    match = _BYTE_PIECE.fullmatch(piece) if isinstance(piece, str) else None
    return int(match[1], 16) if match else None


def _plain(piece: Piece) -> bytes:
    return piece if isinstance(piece, bytes) else piece.encode()


def _repaired(data: bytes, whole: bool) -> list[bytes]:
    """One entry a byte: the byte, or U+FFFD's UTF-8 where it does not decode."""
    bad: set[int] = set()
    start = 0
    while start < len(data):
        try:
            data[start:].decode()
            break
        except UnicodeDecodeError as error:
            if whole:
                bad = set(range(len(data)))
                break
            bad.add(start + error.start)
            start += error.start + 1
    return [_REPLACEMENT.encode() if i in bad else data[i : i + 1] for i in range(len(data))]


def _at_start(spelled: list[bytes], text: str) -> list[bytes]:
    """Leave out the leading spaces that SentencePiece's decoder strips: those that `text` lacks."""
    data = b"".join(spelled)
    surplus = (len(data) - len(data.lstrip(b" "))) - (len(text) - len(text.lstrip(" ")))
    for index, part in enumerate(spelled):
        if surplus <= 0:
            break
        cut = min(surplus, len(part))
        spelled[index] = part[cut:]
        surplus -= cut
    return spelled


def _without_cut(spelled: Sequence[bytes], text: str) -> list[bytes] | None:
    """`spelled` less the last tokens that an engine holds back, when the others are `text`; else None.

    Engines show what is new once it ends with a whole character. An answer that ends before that, at the
    length limit or with EOS, lacks those tokens whole: the space of b" \\xf0\\x9f" too.
    """
    for num_shown in range(len(spelled), -1, -1):
        so_far = b"".join(spelled[:num_shown]).decode("utf-8", "replace")
        if so_far == text:
            return [*spelled[:num_shown], *[b""] * (len(spelled) - num_shown)]
        if not so_far.endswith(_REPLACEMENT) or len(so_far) <= len(text):
            return None
    return None


def _ranges(spelled: Sequence[bytes], text: str) -> list[tuple[int, int]]:
    """Character ranges of the tokens, `spelled` being known to decode to `text`."""
    data = b"".join(spelled)
    if len(data) == len(text):  # as no character takes less than a byte, each takes one
        ends = list(accumulate(map(len, spelled)))
        return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
    character_of_byte: list[int] = []
    for index, character in enumerate(text):
        character_of_byte += [index] * _num_bytes(data, len(character_of_byte), character)
    ranges, position = [], 0
    for part in spelled:
        stop = position + len(part)
        if part:
            ranges.append((character_of_byte[position], character_of_byte[stop - 1] + 1))
        else:
            at = character_of_byte[position] if position < len(data) else len(text)
            ranges.append((at, at))
        position = stop
    return ranges


def _num_bytes(data: bytes, position: int, character: str) -> int:
    """Bytes that `character` took of `data` at `position`."""
    encoded = character.encode()
    if character != _REPLACEMENT or data.startswith(encoded, position):
        return len(encoded)
    try:  # a broken sequence decodes to one U+FFFD, as long as its error says
        data[position : position + 4].decode()
    except UnicodeDecodeError as error:
        return error.end - error.start
    raise AssertionError(f"byte {position} decodes, but not to U+FFFD")
