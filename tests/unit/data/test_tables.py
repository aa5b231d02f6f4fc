"""Preference data, questions and answers as tables and compressed files: read as the same JSON Lines are."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import fuzz
import pyarrow
import pyarrow.parquet
import pytest
from bad_input import AUTHORS, QUESTIONS, ROLLOUTS, TRL, lines

from maskdpo_ray.data import answers, formats, questions, rows
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.data.formats.trainers import to_openrlhf, to_trl
from maskdpo_ray.data.jsonl import num_lines, objects
from maskdpo_ray.errors import DataError, UserError
from maskdpo_ray.store import files

SPANS = [{"start": 0, "end": 4, "label": "no_fact"}, {"start": 5, "end": 11, "label": "no_fact", "confidence": 0.5}]
SYSTEM = [{"role": "system", "content": ""}, {"role": "user", "content": "What is é?"}]
PAIRS = [
    {**TRL, "question_id": "a", "chosen_sentences": SPANS},
    {**TRL, "question_id": "b", "prompt": SYSTEM, "chosen": [{"role": "assistant", "content": "Yes. It is."}]},
    {**AUTHORS, "question_id": "c"},
]


def parquet(items: list[dict[str, Any]], file: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), file, row_group_size=2)


def arrow_file(items: list[dict[str, Any]], file: Path) -> None:
    table = pyarrow.Table.from_pylist(items)
    with pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


def arrow_stream(items: list[dict[str, Any]], file: Path) -> None:
    table = pyarrow.Table.from_pylist(items)
    with pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def saved(items: list[dict[str, Any]], file: Path) -> None:
    import datasets

    datasets.Dataset.from_list(items).save_to_disk(file, num_shards=min(2, len(items)))


def saved_split(items: list[dict[str, Any]], file: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(items)}).save_to_disk(file)


def delimited(delimiter: str, structured: Callable[[Any], str] = json.dumps) -> Callable[..., None]:
    def write(items: list[dict[str, Any]], file: Path) -> None:
        names = list(dict.fromkeys(name for item in items for name in item))
        with file.open("w", newline="", encoding="utf-8-sig") as opened:
            writer = csv.writer(opened, delimiter=delimiter)
            writer.writerow(names)
            for item in items:
                cells = [item.get(name) for name in names]
                writer.writerow(
                    ["" if c is None else structured(c) if isinstance(c, dict | list) else c for c in cells]
                )

    return write


def compressed(opener: Callable[[bytes], bytes]) -> Callable[..., None]:
    return lambda items, file: file.write_bytes(opener(lines(*items).encode()))


def zipped_table(items: list[dict[str, Any]], file: Path) -> None:
    delimited(",")(items, file)
    file.write_bytes(gzip.compress(file.read_bytes()))


WRITTEN: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    "p.parquet": parquet,
    "without its name": parquet,
    "p.arrow": arrow_file,
    "p.stream": arrow_stream,
    "saved": saved,
    "saved-split": saved_split,
    "p.csv": delimited(","),
    "p.TSV": delimited("\t"),
    "p.csv.gz": zipped_table,
    "p.jsonl.gz": compressed(gzip.compress),
    "p.json.gz": lambda items, file: file.write_bytes(gzip.compress(json.dumps(items, indent=1).encode())),
    "p.jsonl.bz2": compressed(bz2.compress),
    "p.jsonl.xz": compressed(lzma.compress),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_pairs_are_those_of_the_same_json_lines(tmp_path: Path, name: str) -> None:
    items = [PAIRS[0], {**PAIRS[0], "question_id": "d", "chosen_sentences": None}]  # which columns can hold
    if "json" in name:
        items = PAIRS
    if "csv" in name or "TSV" in name:
        items = PAIRS[:2]
    (tmp_path / "p.jsonl").write_text(lines(*items))
    WRITTEN[name](items, tmp_path / name)
    expected = [each for _, each in rows.preferences(tmp_path / "p.jsonl")]
    assert [each for _, each in rows.preferences(tmp_path / name)] == expected


@pytest.mark.parametrize("name", ["p.parquet", "saved", "p.jsonl.gz", "p.csv"])
def test_questions_and_answers_are_too(tmp_path: Path, name: str) -> None:
    asked = [{**each, "facts": {"table": "countries", "entity": "Rwanda"}} for each in QUESTIONS]
    WRITTEN[name](asked, tmp_path / f"q-{name}")
    (tmp_path / "q.jsonl").write_text(lines(*asked))
    found = questions.load(str(tmp_path / f"q-{name}"))
    assert found == questions.load(str(tmp_path / "q.jsonl"))
    WRITTEN[name](ROLLOUTS, tmp_path / f"r-{name}")
    (tmp_path / "r.jsonl").write_text(lines(*ROLLOUTS))
    by_id = {each.id: each for each in found}
    expected = [each for _, *each in answers.read(tmp_path / "r.jsonl", by_id)]
    assert [each for _, *each in answers.read(tmp_path / f"r-{name}", by_id)] == expected


def test_messages_of_tables_have_no_nulls(tmp_path: Path) -> None:
    """A column of structs has the fields of all rows in each."""
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    turns = [*SYSTEM, call, {"role": "tool", "name": "f", "content": "19 C"}]
    items = [{**TRL, "prompt": SYSTEM}, {**TRL, "prompt": turns}]
    parquet(items, tmp_path / "p.parquet")
    (_, first), (_, second) = rows.preferences(tmp_path / "p.parquet")
    assert first.prompt == tuple(SYSTEM)
    assert second.prompt == (*SYSTEM, {**call, "content": ""}, turns[-1])


def test_a_bad_row_is_named_and_dropped(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    parquet([TRL, {**TRL, "chosen": " "}, TRL], file)
    dropped = Dropped(file, 0.05)
    assert len(list(rows.preferences(file, dropped))) == 2
    assert dropped.examples == {
        "empty_answer": f"{file}:2: chosen[0].content: expected text that is not empty, got ' '"
    }
    file = tmp_path / "p.csv"
    header, good = "prompt,chosen,rejected,chosen_item\n", b'"a\nb",c,d,\n'
    bad = [b"a,b\n", b"a,\xff,c,\n", b"a,b,c,{no\n", b'a,b,"c"d,\n', b'a,b,c,"{""x"": NaN}"\n']
    file.write_bytes(header.encode() + b"".join(good + each for each in bad) + good)
    dropped = Dropped(file, 1.0)
    assert [where for where, _ in rows.preferences(file, dropped)] == [
        f"{file}:{line}" for line in (2, 5, 8, 11, 14, 17)
    ]
    assert (dropped.counts, dropped.records) == ({"malformed": 3, "invalid_field": 2}, 11)
    assert dropped.examples["malformed"] == f"{file}:4: expected 4 cells, as there are columns, got 2"


def test_a_text_that_is_no_utf8_costs_its_row(tmp_path: Path) -> None:
    """Arrow accepts such bytes as text without a check."""
    offsets, data = pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"a\xffc")
    column = pyarrow.StringArray.from_buffers(3, offsets, data)
    arrow_file_of = pyarrow.table({"prompt": column, "n": [0, 1, 2]})
    with pyarrow.ipc.new_file(tmp_path / "p.arrow", arrow_file_of.schema) as writer:
        writer.write_table(arrow_file_of)
    dropped = Dropped(tmp_path / "p.arrow", 0.05)
    assert [item["n"] for _, item in objects(tmp_path / "p.arrow", dropped)] == [0, 2]
    assert dropped.examples["malformed"].startswith(f"{tmp_path}/p.arrow:2: expected a row, got: 'utf-8' codec")


def test_cells_that_json_has_no_value_for(tmp_path: Path) -> None:
    """Other columns are ignored, whatever they hold."""
    row = {"prompt": "a", "day": date(2026, 1, 2), "price": Decimal("1.50"), "picture": b"\xff\xd8", "text": b"ab"}
    parquet([{**row, "score": float("nan"), "of": {"x": None, "y": [1, None]}}], tmp_path / "p.parquet")
    [(where, item)] = objects(tmp_path / "p.parquet")
    assert where == f"{tmp_path}/p.parquet:1"
    assert item == {"prompt": "a", "day": "2026-01-02", "price": "1.50", "text": "ab", "of": {"y": [1, None]}}
    assert num_lines(tmp_path / "p.parquet") == 1


def test_what_is_no_whole_file_is_one_line(tmp_path: Path) -> None:
    for name in ("p.parquet", "p.arrow", "p.stream", "p.jsonl.gz", "p.jsonl.xz", "p.jsonl.bz2"):
        WRITTEN[name]([TRL] * 50, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match=f"^{tmp_path}/{name}: expected a whole (table|compressed file), got: "):
            list(rows.preferences(tmp_path / name))
    with pytest.raises(DataError, match="expected the parts of one set, got .arrow and .jsonl and .parquet"):
        list(objects(tmp_path))
    import datasets

    one = datasets.Dataset.from_list([TRL])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match="two: expected one of its splits, such as .*/two/train, got a folder of 2"):
        list(objects(tmp_path / "two"))
    assert len(list(objects(tmp_path / "two" / "test"))) == 1
    (tmp_path / "two" / "test" / "state.json").write_text('{"_data_files": [{"filename": "../x"}]}')
    with pytest.raises(DataError, match="_data_files: expected the names of what lies beside it"):
        list(objects(tmp_path / "two" / "test"))


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.stream", "p.jsonl.gz"])
def test_bytes_that_nobody_would_write(tmp_path: Path, name: str) -> None:
    WRITTEN[name]([TRL, TRL], tmp_path / name)
    good = (tmp_path / name).read_bytes()
    fuzz.check(fuzz.from_file(tmp_path / name, lambda path: list(rows.preferences(path))), good, examples=40)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz", "t.parquet", "parts/t.parquet"])
def test_a_table_without_rows(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), file)
    else:
        file.write_bytes(gzip.compress(b"id\tprompt\n") if name.endswith(".gz") else b"id,prompt\n")
    source = file.parent if "/" in name else file
    with pytest.raises(DataError, match=f"^{source}: expected rows, got a table without$"):
        next(objects(source))


def test_a_length_that_no_memory_holds_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(file: object) -> None:
        raise MemoryError("malloc of size 9223372036854775808 failed")

    WRITTEN["p.stream"]([TRL], tmp_path / "p.stream")
    monkeypatch.setattr(pyarrow.ipc, "open_stream", opened)
    with pytest.raises(
        DataError, match="p.stream: expected a whole table, got: malloc of size 9223372036854775808 fai"
    ):
        list(rows.preferences(tmp_path / "p.stream"))


def test_nothing_of_a_table_is_imported_to_read_json(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(lines(TRL))
    code = "import pathlib, sys; from maskdpo_ray.data import rows; list(rows.preferences(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", f"{code}; print('pyarrow' in sys.modules)", str(tmp_path / "p.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


WRITTEN_BACK = [to_trl, to_openrlhf, formats.WRITERS["anah"]]


@pytest.mark.parametrize("name", ["o.jsonl", "o.jsonl.gz", "o.parquet"])
@pytest.mark.parametrize("to", WRITTEN_BACK)
def test_what_is_written_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, to: Callable[..., dict[str, Any]]
) -> None:
    """Columns that are null in all rows of a part, and message keys beside the text."""

    def prompt(n: int) -> list[dict[str, str]]:
        return [*SYSTEM[: n % 2], {**SYSTEM[1], **({"name": "n"} if n > 30 else {})}]

    monkeypatch.setattr(files, "_ROWS", 16)
    items = [{**AUTHORS, "question_id": str(n), "prompt": prompt(n)} for n in range(40)]
    (tmp_path / "p.jsonl").write_text(lines(*items))
    given = [each for _, each in rows.preferences(tmp_path / "p.jsonl")]
    assert files.write_new(tmp_path / name, map(to, given)) == 40
    assert [each for _, each in rows.preferences(tmp_path / name)] == given
    if name == "o.parquet":
        assert pyarrow.parquet.read_table(tmp_path / name).num_rows == 40
    if name == "o.jsonl.gz":
        assert gzip.decompress((tmp_path / name).read_bytes()).count(b"\n") == 40


def test_no_file_gets_a_name_that_it_does_not_deserve(tmp_path: Path) -> None:
    for name in ("o.csv", "o.tsv", "o.arrow", "o.XLSX", "o.jsonl.bz2", "o.zip"):
        with pytest.raises(
            DataError, match=r"expected a file to write that ends in .jsonl, .jsonl.gz or .parquet, got"
        ):
            files.refuse_existing(tmp_path / name, False, ())
    for name in ("o.parquet", "o.jsonl.gz", "o.csv"):
        with pytest.raises(DataError, match=r"expected a file to write that ends in .jsonl, got one in ."):
            files.refuse_existing(tmp_path / name, False, (), grows=True)
    with pytest.raises(UserError, match=r"o.parquet: expected values that .* can hold, got: .*; .jsonl holds them"):
        files.write_new(tmp_path / "o.parquet", [{"a": "b"}, {"a": [1]}])
    assert not list(tmp_path.iterdir())
