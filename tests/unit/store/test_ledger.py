"""The ledger's lines: what each must hold, and what is said of one that doesn't."""

import json

import pytest
from test_run_folder import CONFIG, open_folder

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store.ledger import read_entries, worked
from maskdpo_ray.store.run_folder import RunFolder

OPEN = {"stage": "open", "time": 1.0, "schema": 3, "pid": 1, "host": "h", "versions": {}, "changed": {}}
PROOF = {"bytes": 1, "sha256": "0"}
SEALED = {**PROOF, "counts": {"annotations": {"total": 2, "unparsed": 0}}}
TRAIN = {
    "stage": "train",
    "iteration": 0,
    "finished": 1.0,
    "facts": {"checksum": "c"},
    "files": {"policy/a": PROOF},
    "logs": {},
}
WHOLE = (OPEN, TRAIN)

BAD = {
    f"{entry['stage']} without {name}": ({k: v for k, v in entry.items() if k != name}, f"missing field {name!r}")
    for entry in WHOLE
    for name in entry
    if name not in ("stage", "logs")
} | {
    "a list": ([], "expected a JSON object with a stage, got '[]'"),
    "no stage": ({}, "expected a JSON object with a stage, got '{}'"),
    "stage is a list": ({"stage": []}, "expected a JSON object with a stage"),
    "only a stage": ({"stage": "train"}, "missing field 'iteration' in the finished"),
    "files is a list": ({**TRAIN, "files": []}, "field 'files': expected an object"),
    "a seal holds text": (
        {**TRAIN, "logs": {"a": {**SEALED, "bytes": "1"}}},
        "field 'logs[...].bytes': expected int, got str",
    ),
    "facts is text": ({**TRAIN, "facts": "x"}, "field 'facts': expected an object"),
    "no checksum": ({**TRAIN, "facts": {}}, "facts.checksum: expected text, got None"),
    "begin without checksum": ({**TRAIN, "stage": "begin", "facts": {}}, "facts.checksum: expected text, got None"),
    "a proof is text": ({**TRAIN, "files": {"a": "x"}}, "field 'files[...]': expected an object, got str"),
    "unknown field": ({**TRAIN, "why": 1}, "unknown field 'why' in the finished"),
    **{
        f"{part} {name!r}": (
            {**TRAIN, part: {name: value}},
            f"{part}: expected paths within the run folder, got {name!r}",
        )
        for part, value in (("files", PROOF), ("logs", SEALED))
        for name in ("/etc/passwd", "../x", "policy/../../x")
    },
    "newer schema": (
        {**OPEN, "schema": 9, "news": True},
        "schema: expected 3, got 9: a run folder of a newer version, which this version does not read",
    ),
    "earlier schema": (
        {**OPEN, "schema": 2},
        "schema: expected 3, got 2: a run folder of an earlier version, which this version does not read",
    ),
}


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_whole_lines_are_read(tmp_path):
    write(tmp_path / "ledger.jsonl", *WHOLE)
    assert [entry.stage for entry in read_entries(tmp_path / "ledger.jsonl")] == ["open", "train"]


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("last", [True, False])
def test_a_line_that_lacks_what_its_stage_needs_is_named(tmp_path, case, last):
    """Also as the last line: a kill tears a line, it takes no field away."""
    entry, message = BAD[case]
    ledger = tmp_path / "ledger.jsonl"
    write(ledger, OPEN, entry, *([] if last else [TRAIN]))
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


def test_seconds_of_work_leave_pauses_out(tmp_path):
    def finished(time):
        return {**TRAIN, "stage": "evaluate-heldout", "finished": time}

    opened = [{**OPEN, "time": time} for time in (10.0, 100.0, 200.0)]
    write(tmp_path / "ledger.jsonl", opened[0], finished(15.0), *opened[1:], finished(207.0))
    assert worked(read_entries(tmp_path / "ledger.jsonl")) == 12.0
