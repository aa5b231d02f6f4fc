"""Objects of JSON files: in any layout, one at a time, and faults named by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskdpo_ray.data import jsonl
from maskdpo_ray.data.jsonl import objects, records
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import Sentence

text = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\{}[],\n'), max_size=8)
values = st.recursive(
    st.none() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
items = st.lists(st.dictionaries(text, values, max_size=3), min_size=1, max_size=4)


def laid_out(found: list[dict[str, Any]], layout: str, ascii_only: bool) -> str:
    if layout == "lines":
        return "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in found)
    if layout == "objects":
        return "\n\n".join(json.dumps(item, ensure_ascii=ascii_only, indent=2) for item in found)
    return json.dumps(found, ensure_ascii=ascii_only, indent=int(layout) or None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items, st.sampled_from(["lines", "objects", "0", "2"]), st.booleans(), st.integers(1, 9))
def test_any_layout_and_any_cut_between_reads(
    tmp_path: Path, found: list[dict[str, Any]], layout: str, ascii_only: bool, chunk: int
) -> None:
    file = tmp_path / "items.json"
    written = laid_out(found, layout, ascii_only)
    file.write_text(written, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_CHUNK", chunk)
        read = list(objects(file))
    assert [item for _, item in read] == found
    if layout == "lines":
        assert [where for where, _ in read] == [f"{file}:{n}" for n in range(1, len(found) + 1)]


FAULTS = {
    "empty": (b"", "items.json: expected JSON objects, got none"),
    "empty array": (b" [ ] ", "items.json: expected JSON objects, got none"),
    "not an object": (b'{"a": 1}\n7\n', "items.json:2: expected a JSON object, got '7'"),
    "cut off": (b'{"a": 1}\n{"a": "b', "items.json:2: expected a JSON object, got one whose brackets or quotes"),
    "quote": (b'{"a": 1}\n{"a: 1}\n{"b": 2}\n', "items.json:2: expected"),
    "comma": (b'[{"a": 1}\n{"a": 2}]', "items.json:2: expected a comma or ] after an object, got '{'"),
    "last comma": (b'[{"a": 1},\n]', "items.json:2: expected a JSON object, got ']'"),
    "open array": (b'[{"a": 1}\n', "items.json:2: expected ] at the end of the array, got the end of the file"),
    "open array, comma": (b'[{"a": 1},\n', "items.json:2: expected a JSON object, got the end of the file"),
    "after array": (b'[{"a": 1}]\n{}', "items.json:2: expected nothing after the array, got '{'"),
    "inside": (b'{\n "a": 1,\n "b" 2}', "items.json:3: expected JSON, got: Expecting ':' delimiter at column 6"),
    "bracket": (b'{"a": [1}\n', "items.json:1: expected"),
    "twice": (b'{"a": 1, "a": 2}', "items.json:1: expected JSON, got: field 'a' twice"),
    "constant": (b'{"a": NaN}', "items.json:1: expected JSON, got: NaN, which JSON does not have"),
    "not UTF-8": (b'{"a": "\xe9"}', "items.json:1: expected UTF-8, got byte 0xe9"),
    "surrogate": (b'{"a": "\\ud800"}', "items.json:1: expected Unicode text, got a lone '\\ud800'"),
}


@pytest.mark.parametrize(("data", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named_by_line(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "items.json"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(objects(file))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_object_comes_before_the_fault_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "items.json"
    file.write_bytes(b'\xef\xbb\xbf[{"a": 1}, oops')
    assert next(objects(file)) == (f"{file}:1", {"a": 1})


def test_an_object_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "items.json"
    file.write_bytes(b'{"a": [' + b"1, " * 1000)
    monkeypatch.setattr(jsonl, "_CHUNK", 16)
    monkeypatch.setattr(jsonl, "_MOST", 64)
    with pytest.raises(DataError, match="brackets or quotes are not closed"):
        next(objects(file))


def test_records_name_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "sentences.jsonl"
    file.write_text('{"start": 0, "end": 1, "label": "no_fact"}\n{"start": 0, "end": "1", "label": "no_fact"}\n')
    read = records(Sentence, file)
    assert next(read) == (f"{file}:1", Sentence(0, 1, "no_fact"))
    with pytest.raises(DataError, match=r"sentences\.jsonl:2: field 'end': expected int, got str '1'"):
        next(read)
    with pytest.raises(DataError, match="nowhere: expected a JSON file, got: No such file"):
        list(objects(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2},\n{"a": 3}, {"a": 4}, {"a": 5}]', '{"a": 1} {"a": 2}\n{"a": 3} {"a": 4} {"a": 5}']
)
def test_objects_of_one_line_have_places_of_their_own(tmp_path: Path, text: str) -> None:
    file = tmp_path / "items.json"
    file.write_text(text)
    places = ["1", "1:2", "2", "2:2", "2:3"]
    found = {where.removeprefix(f"{file}:"): value["a"] for where, value in objects(file)}
    assert found == dict(zip(places, range(1, 6), strict=True))
