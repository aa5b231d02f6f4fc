"""Data sets of the Hub, from a stand-in on loopback that a process of its own is told of, as a user's is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from fake_hub import Repository, serving

from maskdpo_ray.data import hub_data
from maskdpo_ray.data.hub_data import HubData
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError

CARD = """---
configs:
- config_name: en
  default: true
  data_files:
  - {split: train, path: en/train-*}
  - {split: test, path: en/test-*}
- config_name: zh
  data_files: [{split: train, path: zh/train-*}]
---
"""
READ = """
import json, sys
from pathlib import Path
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError

for name in sys.argv[1:]:
    try:
        print(json.dumps([[where, row] for where, row in objects(Path(name))]))
    except DataError as error:
        print(json.dumps(str(error)))
"""
SECRET = "hf_NobodyMaySeeThis"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://datasets/org/set", HubData("org/set", None, None, "train")),
        ("hf:/datasets/org/set:en/test", HubData("org/set", None, "en", "test")),  # as a Path
        ("hf://datasets/org/set@v1:en", HubData("org/set", "v1", "en", "train")),
        ("https://huggingface.co/datasets/org/set", HubData("org/set", None, None, "train")),
        ("questions.jsonl", None),
        ("org/set", None),
    ],
)
def test_a_name_is_told_from_a_path(text: str, expected: HubData | None) -> None:
    assert hub_data.parsed(text) == expected


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("hf://datasets/set", "/split]"),
        ("hf://datasets/org/set/en/test", "/split]"),
        ("hf://datasets/org/set@", "/split]"),
        ("hf://org/set", "/split], got the address of a model; did you mean hf://datasets/org/set?"),
        ("https://huggingface.co/org/set", "/split], got the address of a model; did you mean hf://datasets/org/set?"),
        ("s3://bucket/file.jsonl", "/split]"),
    ],
)
def test_an_address_of_no_data_set_is_quoted_as_it_was_given(text: str, end: str) -> None:
    """A Path has one slash where it had two."""
    for given in (text, Path(text)):
        with pytest.raises(DataError) as caught:
            next(objects(Path(given)))
        expected = f"{text}: expected a file or folder, or a data set of the Hub, hf://datasets/org/name"
        assert str(caught.value).startswith(expected) and str(caught.value).endswith(end)


def test_a_name_without_address_is_a_path() -> None:
    with pytest.raises(DataError, match="No such file or directory; a data set of the Hub is hf://datasets/org/set$"):
        next(objects(Path("org/set")))
    with pytest.raises(DataError, match="No such file or directory$"):
        next(objects(Path("data/questions.jsonl")))


def test_splits_and_configs_are_streamed(tmp_path: Path) -> None:
    def part(*prompts: str) -> bytes:
        sink = pyarrow.BufferOutputStream()
        rows = [{"prompt": prompt, "meta": {"n": n, "none": None}} for n, prompt in enumerate(prompts)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return bytes(sink.getvalue())

    files = {
        "README.md": CARD.encode(),
        "en/train-00000-of-00002.parquet": part("a", "b"),
        "en/train-00001-of-00002.parquet": part("c"),
        "en/test-00000-of-00001.parquet": part("d"),
        "zh/train-00000-of-00001.parquet": part("e"),
    }
    with serving() as hub:
        hub.repositories["datasets/org/set"] = Repository(token=SECRET)
        hub.repositories["datasets/org/set"].commit(files, "main")
        given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": SECRET}
        offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
        environment = {name: value for name, value in os.environ.items() if name not in offline} | given
        names = ["hf://datasets/org/set", "hf://datasets/org/set:en/test", "hf://datasets/org/set:zh"]
        names += ["hf://datasets/org/none", "hf://datasets/org/set/dev"]
        command = [sys.executable, "-c", READ, *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    train, test, chinese, absent, no_split = map(json.loads, done.stdout.splitlines())
    assert train == [
        ["hf://datasets/org/set/train:1", {"prompt": "a", "meta": {"n": 0}}],
        ["hf://datasets/org/set/train:2", {"prompt": "b", "meta": {"n": 1}}],
        ["hf://datasets/org/set/train:3", {"prompt": "c", "meta": {"n": 0}}],
    ]
    assert test == [["hf://datasets/org/set:en/test:1", {"prompt": "d", "meta": {"n": 0}}]]
    assert chinese == [["hf://datasets/org/set:zh/train:1", {"prompt": "e", "meta": {"n": 0}}]]
    assert absent.startswith("hf://datasets/org/none/train: expected a data set of the Hub, as hf://datasets/org/name")
    assert "hf download --repo-type dataset org/none" in absent
    assert no_split.startswith("hf://datasets/org/set/dev: expected a data set of the Hub") and "dev" in no_split
    assert SECRET not in done.stdout + done.stderr
