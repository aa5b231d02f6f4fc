"""The ledger's lines: what each must hold, and what is said of one that doesn't."""

import json
import os

import pytest
from test_run_folder import CONFIG, open_folder

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store.ledger import read_entries
from maskdpo_ray.store.run_folder import RunFolder

OPEN = {"stage": "open", "time": 1.0, "schema": 1, "pid": 1, "host": "h", "versions": {}, "changed": {}}
QUESTION = {
    "stage": "question",
    "log": "iter_000",
    "question_id": "q",
    "count": 2,
    "drop": None,
    "end": {"rollouts": 0, "annotations": 0, "pairs": 0},
    "bytes": 0,
    "sha256": "0",
}
REWIND = {"stage": "rewind", "log": "iter_000", "keep": 0}
PROOF = {"bytes": 1, "sha256": "0"}
TRAIN = {"stage": "train", "iteration": 0, "finished": 1.0, "facts": {"checksum": "c"}, "files": {"policy/a": PROOF}}
WHOLE = (OPEN, QUESTION, REWIND, TRAIN)

BAD = {
    f"{entry['stage']} without {name}": ({k: v for k, v in entry.items() if k != name}, f"missing field {name!r}")
    for entry in WHOLE
    for name in entry
    if name != "stage"
} | {
    "a list": ([], "expected a JSON object with a stage, got '[]'"),
    "no stage": ({}, "expected a JSON object with a stage, got '{}'"),
    "stage is a list": ({"stage": []}, "expected a JSON object with a stage"),
    "only a stage": ({"stage": "question"}, "missing field 'bytes' in the unit"),
    "end is a list": ({**QUESTION, "end": []}, "field 'end': expected an object"),
    "end holds text": ({**QUESTION, "end": {"rollouts": "1"}}, "field 'end.rollouts': expected int, got str '1'"),
    "facts is text": ({**TRAIN, "facts": "x"}, "field 'facts': expected an object"),
    "no checksum": ({**TRAIN, "facts": {}}, "facts.checksum: expected text, got None"),
    "begin without checksum": ({**TRAIN, "stage": "begin", "facts": {}}, "facts.checksum: expected text, got None"),
    "a proof is text": ({**TRAIN, "files": {"a": "x"}}, "expected an object with the fields of the proof"),
    "unknown field": ({**REWIND, "why": 1}, "unknown field 'why' in the rewind"),
    **{
        f"log {log!r}": ({**entry, "log": log}, f"log: expected iter_000, eval_000/heldout or the like, got {log!r}")
        for entry in (QUESTION, REWIND)
        for log in ("../iter_000", "/iter_000", "iter_000/../../x", "eval_000/..", "eval_000/a/b", "iter_000\n", "")
    },
    **{
        f"file {name!r}": (
            {**TRAIN, "files": {name: PROOF}},
            f"files: expected paths within the run folder, got {name!r}",
        )
        for name in ("/etc/passwd", "../x", "policy/../../x")
    },
    "count below 0": ({**QUESTION, "count": -1}, "count: expected 0 or more, got -1"),
    "end below 0": ({**QUESTION, "end": {"rollouts": -1}}, "rollouts: expected 0 or more, got -1"),
    "keep below 0": ({**REWIND, "keep": -1}, "keep: expected 0 or more, got -1"),
    "newer schema": (
        {**OPEN, "schema": 2, "news": True},
        "schema: expected at most 1, got 2; a newer version wrote this folder",
    ),
}


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_whole_lines_are_read(tmp_path):
    write(tmp_path / "ledger.jsonl", *WHOLE)
    assert [entry.stage for entry in read_entries(tmp_path / "ledger.jsonl")] == ["open", "question", "rewind", "train"]


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("last", [True, False])
def test_a_line_that_lacks_what_its_stage_needs_is_named(tmp_path, case, last):
    """Also as the last line: a kill tears a line, it takes no field away."""
    entry, message = BAD[case]
    ledger = tmp_path / "ledger.jsonl"
    write(ledger, OPEN, entry, *([] if last else [REWIND]))
    before = ledger.read_bytes()
    for attempt in (read_entries, lambda _: RunFolder.check(tmp_path, CONFIG), lambda _: open_folder(tmp_path)):
        with pytest.raises(RunFolderError) as caught:
            attempt(ledger)
        assert str(caught.value).startswith(f"{ledger}, line 2: ") and message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert ledger.read_bytes() == before


def test_check_tells_the_entries(tmp_path):
    """A torn last line is none, and reading changes nothing."""
    assert RunFolder.check(tmp_path / "r", CONFIG) == []
    with open_folder(tmp_path / "r") as folder:
        folder.finish("evaluate-heldout", 0)
        folder.finish("reference", 1)
    ledger = tmp_path / "r/ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'{"stage": "evaluate-held')
    before = ledger.read_bytes()
    _, *finished = RunFolder.check(tmp_path / "r", CONFIG)
    assert [(entry.stage, entry.iteration) for entry in finished] == [("evaluate-heldout", 0), ("reference", 1)]
    assert ledger.read_bytes() == before


def test_a_folder_in_its_place_is_one_line(tmp_path):
    (tmp_path / "ledger.jsonl").mkdir()
    for attempt in (RunFolder.check, open_folder):
        with pytest.raises(RunFolderError, match=r"ledger.jsonl: can't be read: Is a directory$"):
            attempt(tmp_path, CONFIG)


def test_a_file_of_answers_that_is_a_folder_is_one_line(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        os.makedirs(tmp_path / "r/iter_000/pairs.jsonl")
        with pytest.raises(RunFolderError, match=r"pairs.jsonl: can't be written: Is a directory$"):
            folder.committed_questions(0)
