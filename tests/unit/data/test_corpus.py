"""Corpora: BM25 as by its formula, an index on disk by content, documents for questions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from maskdpo_ray.data import corpus
from maskdpo_ray.data.corpus import Corpus, Passages, documents
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import Question

TEXTS = [
    "Rwanda is a landlocked state. Its capital is Kigali.",
    "Kenya lies at the Indian Ocean. Its capital is Nairobi.",
    "Gold is a metal.",
    "卢旺达是非洲的一个国家。",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKDPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpora"


def written(folder: Path, texts: list[str] = TEXTS) -> Path:
    file = folder / "documents.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def bm25(query: str, text: str, k1: float = 1.5, b: float = 0.75) -> float:
    """Lucene's variant, which is bm25s's default: Kamphuis et al. 2020, table 1."""
    split = [corpus.words(each) for each in TEXTS]
    average = sum(map(len, split)) / len(split)
    score = 0.0
    for word in corpus.words(query):
        having = sum(word in each for each in split)
        count = corpus.words(text).count(word)
        idf = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
        score += idf * count / (count + k1 * (1 - b + b * len(corpus.words(text)) / average))
    return score


@pytest.mark.parametrize("query", ["the capital of Rwanda", "Its capital", "a metal state", "卢旺达", "KIGALI", "x"])
def test_documents_come_in_the_order_of_their_scores(tmp_path: Path, query: str) -> None:
    found = Corpus.of(written(tmp_path)).find(query, 3)
    scored = [(bm25(query, text), -place, text) for place, text in enumerate(TEXTS)]
    assert found == [text for score, _, text in sorted(scored, reverse=True) if score > 0][:3]
    assert found == Passages(TEXTS).find(query, 3)


def test_an_index_is_made_once_for_a_content(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path)
    assert len(Corpus.of(file)) == len(TEXTS)
    moved = file.rename(tmp_path / "moved.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr(corpus, "_make", None)  # not called
        assert Corpus.of(moved).find("gold", 1) == [TEXTS[2]]
    assert Corpus.of(written(tmp_path, ["Gold is soft."])).find("gold", 1) == ["Gold is soft."]
    assert len(list(cache.iterdir())) == 2


def test_a_folder_of_parquet_with_titles(tmp_path: Path) -> None:
    (tmp_path / "wiki").mkdir()
    for number, (title, text) in enumerate([("Rwanda", "A state."), ("Kenya", "A state, too.")]):
        table = pyarrow.table({"id": [number], "title": [title], "contents": [text]})
        pyarrow.parquet.write_table(table, tmp_path / "wiki" / f"part-{number}.parquet")
    assert list(documents(tmp_path / "wiki")) == ["Rwanda\nA state.", "Kenya\nA state, too."]
    assert Corpus.of(tmp_path / "wiki").find("kenya", 2) == ["Kenya\nA state, too."]


def test_a_question_without_document_gets_the_best_ones(tmp_path: Path) -> None:
    found = Corpus.of(written(tmp_path))
    asked = Question("q", "Rwanda", ({"role": "user", "content": "What is its capital?"},))
    assert found.complete(asked, 2).document == f"{TEXTS[0]}\n\n{TEXTS[1]}"
    assert found.complete(asked, 1).document == TEXTS[0]
    own = Question("q", "Rwanda", asked.prompt, "My own document.")
    assert found.complete(own, 2) is own
    unknown = Question("rwanda", "rwanda", ({"role": "user", "content": "Zzz?"},))  # an id is no topic
    assert found.complete(unknown, 2) is unknown


def test_bad_rows_are_dropped_and_counted_also_where_the_index_is_there(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "documents.jsonl"
    rows = [*({"text": text} for text in TEXTS), {"text": ""}, {"title": "No text"}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "{broken\n")
    with pytest.raises(DataError, match=f"^{file}:5: text: expected text that is not empty, got ''"):
        Corpus.of(file)
    too_many = "expected at most 0.1 of the records dropped .data.max_dropped; .* got 3 of 7: 2 invalid_field, 1 malf"
    with pytest.raises(DataError, match=too_many):
        Corpus.of(file, 0.1)
    assert not list(cache.iterdir())
    made, again = Corpus.of(file, 0.2), Corpus.of(file.rename(tmp_path / "moved.jsonl"), 0.2)
    assert len(made) == len(again) == len(TEXTS) and len(list(cache.iterdir())) == 1
    assert made.dropped.to_json() == again.dropped.to_json()
    assert (made.dropped.records, made.dropped.counts) == (7, {"invalid_field": 2, "malformed": 1})
    with pytest.raises(DataError, match=too_many):
        Corpus.of(tmp_path / "moved.jsonl", 0.1)


def test_columns_of_other_names(tmp_path: Path) -> None:
    file = tmp_path / "documents.jsonl"
    rows = [{"body": "A state.", "meta": {"heading": "Rwanda"}, "text": "ignored"}, {"body": "A metal."}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"text": "body", "title": "meta.heading"}
    assert list(documents(file, columns=columns)) == ["Rwanda\nA state.", "A metal."]
    assert Corpus.of(file, columns=columns).find("rwanda", 1) == ["Rwanda\nA state."]
    with pytest.raises(DataError, match=":2: expected a document in one of"):
        Corpus.of(file)
    expected = "^data.document_columns.title: expected a column that .* has, 'body, meta, text'; got 'boddy'; did you"
    with pytest.raises(DataError, match=expected):
        Corpus.of(file, columns={"text": "body", "title": "boddy"})


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"title": "Rwanda"}, ":1: expected a document in one of text, document, .*; got 'title'"),
        ({"text": " "}, ":1: text: expected text that is not empty, got ' '"),
        ({"text": "A.", "title": 3}, ":1: title: expected text that is not empty, got 3"),
        ({"text": "..."}, ": expected documents of words, got none"),
    ],
)
def test_what_is_no_corpus(tmp_path: Path, cache: Path, row: dict[str, object], expected: str) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(DataError, match=f"^{file}{expected}"):
        Corpus.of(file)
    with pytest.raises(DataError, match="^no/where: expected a file or folder of documents, got: No such file"):
        Corpus.of(Path("no/where"))
    assert not list(cache.iterdir())  # nothing half-made is left
