"""Columns under our names, and folders of files."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from maskdpo_ray.config.schema import DataConfig
from maskdpo_ray.data import answers, questions
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.data.rows import refuse_unmet, rows
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.records import Question

SQUAD = {
    "id": "5733",
    "title": "Rwanda",
    "context": "Rwanda's capital is Kigali.",
    "question": "What is Rwanda's capital?",
    "answers": {"text": ["Kigali", "the city of Kigali"], "answer_start": [20, 20]},
}
COLUMNS = {"prompt": "question", "document": "context", "topic": "title", "answer": "answers.text.0"}


def table(file: Path, *given: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(given)), file)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_of_a_question_set(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"squad.{kind}"
    if kind == "parquet":
        table(file, SQUAD)
    else:
        file.write_text(json.dumps(SQUAD))
    (found,) = questions.load(str(file), columns=COLUMNS)
    assert (found.id, found.topic, found.answer) == ("5733", "Rwanda", "Kigali")
    assert found.prompt[-1]["content"] == "What is Rwanda's capital?"
    assert found.document == "Rwanda's capital is Kigali."


def test_a_missing_column_is_named_with_row_and_the_columns_there(tmp_path: Path) -> None:
    file = table(tmp_path / "squad.parquet", SQUAD, SQUAD)
    expected = (
        f"^{file}:1: prompt: expected the column 'query' .data.columns.prompt., got 'id, title, context, question"
    )
    with pytest.raises(DataError, match=expected):
        list(rows(file, columns={"prompt": "query"}))
    assert [row["document"] for _, row in rows(file, columns={"document": "context", "answer": "none"})] == [
        SQUAD["context"]
    ] * 2


def test_a_column_that_no_row_of_any_file_has_is_refused(tmp_path: Path) -> None:
    """A file may lack what another has; a file of questions isn't asked for columns of answers."""
    one, other = (tmp_path / name for name in ("train.jsonl", "eval.jsonl"))
    one.write_text(json.dumps({"question": "The capital of Rwanda?", "title": "Rwanda"}))
    other.write_text(json.dumps({"question": "The capital of Kenya?"}))
    columns = {"prompt": "question", "text": "response", "chosen": "better"}

    def read(**more: str) -> list[Dropped]:
        counters = [Dropped(str(file)) for file in (one, other)]
        assert [len(questions.load(str(each.source), each, columns | more)) for each in counters] == [1, 1]
        return counters

    refuse_unmet([*read(topic="title"), Dropped("builtin:countries")])
    with pytest.raises(DataError) as caught:
        refuse_unmet(read(topic="titel"))
    expected = f"data.columns.topic: expected a column that {one} has, 'question, title'; got 'titel'"
    assert str(caught.value) == f"{expected}; did you mean title?"
    refuse_unmet([Dropped("builtin:countries")])


def test_answers_need_no_column_of_their_questions(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"question_id": "q", "response": "Kigali."}))
    by_id = {"q": Question("q", "q", ({"role": "user", "content": "?"},))}
    [(_, _, (rollout,))] = answers.read(file, by_id, columns={"prompt": "question", "text": "response"})
    assert rollout.text == "Kigali."


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"promt": "question"},
            "data.columns: expected fields among prompt, id, .*; did you mean prompt.; got|got 'promt'",
        ),
        ({"prompt": " "}, "data.columns.prompt: expected the name of a column"),
    ],
)
def test_columns_are_checked(columns: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        DataConfig(columns=columns)


def test_columns_of_documents_are_checked() -> None:
    with pytest.raises(ConfigError, match="data.document_columns: expected fields among text, title; did you mean"):
        DataConfig(documents="wiki", document_columns={"titel": "heading"})
    with pytest.raises(ConfigError, match="data.document_columns: expected none without data.documents"):
        DataConfig(document_columns={"title": "heading"})


def test_the_files_of_a_folder_are_one_set_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (1, 0):
        table(
            tmp_path / "data" / f"train-0000{number}-of-00002.parquet", {"prompt": f"{number}?"}, {"prompt": "again?"}
        )
    (tmp_path / "data" / "README.md").write_text("no data")
    found = [where.removeprefix(f"{tmp_path}/data/") for where, _ in objects(tmp_path / "data")]
    assert found == [f"train-0000{part}-of-00002.parquet:{row}" for part in (0, 1) for row in (1, 2)]
    table(tmp_path / "data" / "test-00000-of-00001.parquet", {"prompt": "held out?"})
    with pytest.raises(
        DataError, match=f"^{tmp_path}/data: expected the parts of one set, got test and train; give one"
    ):
        list(objects(tmp_path / "data"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: expected files in .jsonl, .json, .parquet, .* got a folder without"):
        list(objects(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_large_file_is_never_in_memory(tmp_path: Path, kind: str) -> None:
    """Python's own memory at its peak, over a file of some 8 MB of text: a few rows of it."""
    file, text, count = tmp_path / f"large.{kind}", "Rwanda is a state. " * 200, 2048
    if kind == "jsonl":
        with file.open("w") as written:
            written.writelines(json.dumps({"prompt": "What?", "document": f"{n} {text}"}) + "\n" for n in range(count))
    else:
        with pyarrow.parquet.ParquetWriter(file, pyarrow.schema({"prompt": "string", "document": "string"})) as written:
            for start in range(0, count, 512):
                documents = [f"{n} {text}" for n in range(start, start + 512)]
                written.write_table(pyarrow.table({"prompt": ["What?"] * 512, "document": documents}))
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows(file)) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("module", ["rows", "formats", "formats.layouts"])
def test_each_module_can_be_the_first_that_is_imported(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import maskdpo_ray.data.{module}"], check=True, timeout=60)
