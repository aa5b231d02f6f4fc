"""Documents that questions are checked against, found by BM25 (Robertson and Zaragoza 2009) with the library bm25s.

`Passages` are texts in memory. A `Corpus` lies on disk: its index, made once for each content of its files, is mapped
and not read, and only the documents that are found are in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.data import hub_data
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.data.rows import Columns, Renaming
from maskdpo_ray.errors import DataError, RecordError, shown
from maskdpo_ray.records import Question

Keys = Callable[[str], list[str]]
"""The words of a text, in the form in which they are compared."""
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")  # a Chinese character counts as one
_TEXTS = ("text", "document", "contents", "content", "passage", "context")
"""Columns that hold a document's text: ours, and those of KILT, Pyserini, Wikipedia's and SQuAD's sets."""
_VERSION = "2"
"""Version of an index's files."""


def words(text: str) -> list[str]:
    """Words without case, Chinese characters one by one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class Passages:
    """Texts that can be searched, in memory."""

    def __init__(self, texts: Sequence[str], keys: Keys = words) -> None:
        """Index `texts`, one passage each."""
        self.texts = tuple(texts)
        self._keys, self._index = keys, None
        found = [keys(text) for text in texts]
        if any(found):
            self._index = _indexed(found)

    def find(self, query: str, count: int) -> list[str]:
        """At most `count` passages that share a word with `query`, the best first, ties in the order of the text."""
        return [self.texts[place] for place in _best(self._index, self._keys(query), count)]


def documents(path: Path, dropped: Dropped | None = None, columns: Columns | None = None) -> Iterator[str]:
    """Texts, each with its title in front where there is one, of a file, folder or data set (`jsonl.objects`).

    The text is in one of the columns `text`, `document`, `contents`, `content`, `passage`, `context`. Bad rows go to
    `dropped`; without it the first one's error is raised. Raises DataError, one line, that names the line.

    Args:
        columns: the columns that hold `text` and `title` in their place.
    """
    dropped = dropped or Dropped(path)
    renaming = Renaming(columns or {}, ("text",), "data.document_columns")

    def text(found: tuple[str, dict[str, Any]]) -> str:
        where, row = found[0], renaming.renamed(found[1], found[0])
        name = next((each for each in _TEXTS if row.get(each) is not None), None)
        if name is None:
            expected = f"expected a document in one of {', '.join(_TEXTS)} (in another column: data.document_columns)"
            raise RecordError(f"{where}: {expected}; got {shown(', '.join(row))}", Reason.INVALID_FIELD)
        title = row.get("title")
        for field, given in ((name, row[name]), ("title", "none" if title is None else title)):
            if not isinstance(given, str) or not given.strip():
                message = f"{where}: {field}: expected text that is not empty, got {shown(given)}"
                raise RecordError(message, Reason.INVALID_FIELD)
        return row[name] if title is None else f"{title}\n{row[name]}"

    yield from dropped.sift(objects(path, dropped), text)
    for error in renaming.unmet(path).values():
        raise DataError(error)


class Corpus:
    """Documents that can be searched, on disk."""

    def __init__(self, folder: Path, dropped: Dropped) -> None:
        """Open what `Corpus.of` made; `dropped`: the rows that it left out."""
        import bm25s
        import numpy

        self._index = bm25s.BM25.load(folder, mmap=True)
        self._ends = numpy.load(folder / "ends.npy", mmap_mode="r", allow_pickle=False)
        self._file = folder / "texts.jsonl"
        self.dropped = dropped

    @classmethod
    def of(cls, path: Path, max_dropped: float = 0.0, columns: Columns | None = None) -> Corpus:
        """The corpus of these documents; its index is made if none lies in the cache (`MASKDPO_CACHE`, else
        `~/.cache/maskdpo_ray`) for the same content. Raises DataError.

        Args:
            max_dropped: tolerated share of unusable rows (`data.max_dropped`); 0: none.
            columns: see `documents`.
        """
        dropped = Dropped(path, max_dropped)
        cache = Path(os.environ.get("MASKDPO_CACHE") or Path.home() / ".cache" / "maskdpo_ray") / "corpora"
        key = _digest(path, columns)
        if key is not None and (cache / key).is_dir():
            dropped.restore(json.loads((cache / key / "dropped.json").read_bytes()))
            dropped.check()
            return cls(cache / key, dropped)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=cache, prefix=".making-"))
        except OSError as error:
            raise DataError(f"{cache}: can't be written (MASKDPO_CACHE): {error.strerror}") from None
        try:
            digest = _make(path, made, dropped, columns)
            place = cache / (key or digest)
            if not place.is_dir():
                os.replace(made, place)
        except OSError as error:
            if not place.is_dir():  # else another process was faster
                raise DataError(f"{cache}: can't be written (MASKDPO_CACHE): {error.strerror}") from None
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls(place, dropped)

    def __len__(self) -> int:
        return len(self._ends)

    def find(self, query: str, count: int) -> list[str]:
        """At most `count` documents that share a word with `query`, the best first, ties in the order of the files."""
        found = []
        with self._file.open("rb") as file:
            for place in _best(self._index, words(query), count):
                start = int(self._ends[place - 1]) if place else 0
                file.seek(start)
                found.append(str(json.loads(file.read(int(self._ends[place]) - start))))
        return found

    def complete(self, question: Question, count: int) -> Question:
        """The question with the documents that fit topic and prompt best, where it has none of its own."""
        if question.document is not None:
            return question
        topic = "" if question.topic == question.id else question.topic
        found = self.find(f"{topic} {question.prompt[-1]['content']}", count)
        return replace(question, document="\n\n".join(found)) if found else question


def _digest(path: Path, columns: Columns | None) -> str | None:
    """SHA-256 of the bytes of a file or of a folder's files, and of `columns`; None for a data set of the Hub.

    Raises DataError when there is no such file.
    """
    if hub_data.parsed(path):
        return None
    whole = hashlib.sha256(json.dumps([_VERSION, sorted((columns or {}).items())]).encode())
    try:
        for file in sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]:
            with file.open("rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError as error:
        hint = hub_data.hint(path) if isinstance(error, FileNotFoundError) else ""
        raise DataError(f"{path}: expected a file or folder of documents, got: {error.strerror}{hint}") from None
    return whole.hexdigest()


def _make(path: Path, folder: Path, dropped: Dropped, columns: Columns | None) -> str:
    """Write texts, index and what was dropped into the folder; SHA-256 of the texts."""
    import numpy

    vocabulary: dict[str, int] = {}
    whole, ends, ids = hashlib.sha256(_VERSION.encode()), array("q"), []
    with (folder / "texts.jsonl").open("wb") as file:
        for text in documents(path, dropped, columns):
            line = json.dumps(text).encode() + b"\n"
            whole.update(line)
            file.write(line)
            ends.append(file.tell())
            ids.append(array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]))
    if not vocabulary:
        raise DataError(f"{path}: expected documents of words, got none")
    numpy.save(folder / "ends.npy", numpy.frombuffer(ends, dtype=numpy.int64))
    _indexed((ids, vocabulary)).save(folder, show_progress=False)
    (folder / "dropped.json").write_text(json.dumps(dropped.to_json()))
    return whole.hexdigest()


def _indexed(given: Any) -> Any:
    import bm25s

    index = bm25s.BM25()
    index.index(given, show_progress=False)
    return index


def _best(index: Any, keys: list[str], count: int) -> list[int]:
    """Places of at most `count` texts with a score above 0, the best first, ties in order."""
    import numpy

    keys = [key for key in keys if index is not None and key in index.vocab_dict]
    if not keys:
        return []
    scores = index.get_scores(keys)
    found = numpy.flatnonzero(scores > 0)
    if len(found) > count:
        least = numpy.partition(scores[found], -count)[-count]
        found = found[scores[found] >= least]
    return [int(place) for place in found[numpy.argsort(-scores[found], kind="stable")][:count]]
