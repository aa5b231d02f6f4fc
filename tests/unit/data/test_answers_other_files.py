"""Files that hold records in a way that is not read: one line says which."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import QUESTIONS, TRL, lines

from maskdpo_ray.config.schema import ModelConfig
from maskdpo_ray.data import answers, questions, rows
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError, ModelError
from maskdpo_ray.models import folder

RECORDS = lines(*[TRL] * 20).encode()


def zipped(compression: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        archive.writestr("p.jsonl", RECORDS)
    return made.getvalue()


def tarred(kind: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as archive:
        member = tarfile.TarInfo("p.jsonl")
        member.size = len(RECORDS)
        archive.addfile(member, io.BytesIO(RECORDS))
    return made.getvalue()


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (zipped(zipfile.ZIP_STORED), "a ZIP archive"),
        (zipped(zipfile.ZIP_DEFLATED), "a ZIP archive"),
        (tarred(tarfile.USTAR_FORMAT), "a tar archive"),
        (tarred(tarfile.GNU_FORMAT), "a tar archive"),
        (tarred(tarfile.PAX_FORMAT), "a tar archive"),
        (gzip.compress(tarred(tarfile.PAX_FORMAT)), "a tar archive"),
        (bz2.compress(tarred(tarfile.PAX_FORMAT)), "a tar archive"),
        (b"7z\xbc\xaf\x27\x1c" + RECORDS, "a 7z archive"),
        (b"\x28\xb5\x2f\xfd" + RECORDS, "a Zstandard file"),
    ],
)
def test_archives_are_refused(tmp_path: Path, name: str, data: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"^{tmp_path}/{name}: expected a file of records, .*, got {what}; unpack it$"):
        list(objects(tmp_path / name))


@pytest.mark.parametrize("name", ["data", "train"])
@pytest.mark.parametrize(
    ("records", "read"),
    [
        ([TRL], lambda path: list(rows.preferences(path))),
        (QUESTIONS, lambda path: questions.load(str(path))),
        ([{"question_id": "a", "text": "b"}], lambda path: list(answers.read(path, {}))),
    ],
)
def test_an_object_that_holds_the_records(
    tmp_path: Path, name: str, records: list[dict[str, Any]], read: Callable[[Path], object]
) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"version": "1", name: records}, indent=1))
    expected = f"p.json:1: expected a record, got an object that holds a list of {len(records)} in '{name}'; give that"
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "p.json")


def test_a_saved_folder_that_lacks_a_part(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([TRL] * 4).save_to_disk(tmp_path / "s", num_shards=2)
    part = tmp_path / "s" / "data-00001-of-00002.arrow"
    part.unlink()
    with pytest.raises(DataError, match=f"^{part}: expected the part that {tmp_path}/s/state.json lists, got: No such"):
        list(objects(tmp_path / "s"))


@pytest.mark.parametrize("token", [49152, [2, 10**6], "2", [True], -1, 2.0])
def test_tokens_that_end_generation_are_the_models(tiny_model: Path, tmp_path: Path, token: Any) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    file = tmp_path / "m" / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [0, 49151]}))
    folder.load(ModelConfig(str(tmp_path / "m")))
    file.write_text(json.dumps({"eos_token_id": token}))
    expected = f"^{file}: eos_token_id: expected token ids below the model's vocab_size 49152, got "
    with pytest.raises(ModelError, match=expected):
        folder.load(ModelConfig(str(tmp_path / "m")))
