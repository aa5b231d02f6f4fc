"""A run folder whose ledger lost lines is refused, not cut back; what a kill leaves is not."""

import os
import shutil

import pytest
from test_run_folder import CONFIG, data_files, fill, open_folder, unit

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store.ledger import Ledger
from maskdpo_ray.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Ledger: line 1 open, 2-4 questions of iter_000, 5 train, 6 and 7 questions of eval_001, 8 evaluate, 9 q2."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with open_folder(path) as folder:
        fill(folder, 3)
        folder.finish("train", 0, checksum="abc")
        for name in ("h0", "h1"):
            folder.commit_answers(1, "heldout", name, *unit(name)[:2])
        folder.finish("evaluate-heldout", 1)
        folder.commit_question(1, "q2", *unit("q2"))
    return path


def lines_of(path):
    return (path / "ledger.jsonl").read_bytes().splitlines(keepends=True)


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "run.lock"}


def refused(path, message):
    before = contents(path)
    for attempt in (lambda: RunFolder.check(path, CONFIG), lambda: open_folder(path)):
        with pytest.raises(RunFolderError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value) and "restore the ledger" in str(caught.value)
    assert contents(path) == before


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, "got none for 6 that are on disk, first 'q0' of iter_000"),
        (1, "got none for 6 that are on disk, first 'q0' of iter_000"),
        (2, "got none for 5 that are on disk, first 'q1' of iter_000"),
        (3, "got none for 4 that are on disk, first 'q2' of iter_000"),
        (4, "got none for 3 that are on disk, first 'q2' of iter_001"),
        (5, "got none for 3 that are on disk, first 'q2' of iter_001"),
        (6, "got none for 2 that are on disk, first 'h1' of eval_001/heldout"),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_a_ledger_that_lost_its_last_lines_is_refused_and_no_answer_is_cut(copy, kept, message, half):
    lines = lines_of(copy)
    (copy / "ledger.jsonl").write_bytes(b"".join(lines[:kept]) + (lines[kept][:40] if half else b""))
    refused(copy, message)


def test_a_ledger_that_is_gone_is_refused(copy):
    (copy / "ledger.jsonl").unlink()
    refused(copy, "expected an empty folder, or one of a run, got 'config.yaml' and no ledger.jsonl")


def test_one_answered_question_without_a_ledger_is_refused(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
    (tmp_path / "r/ledger.jsonl").write_bytes(b"")
    refused(tmp_path / "r", "got none for 1 that are on disk")


@pytest.mark.parametrize("lost", [1, 2])
def test_a_ledger_that_lost_a_line_in_the_middle_is_refused(copy, lost):
    """To take it for a power loss would cut off every question after the gap."""
    lines = lines_of(copy)
    del lines[lost]
    (copy / "ledger.jsonl").write_bytes(b"".join(lines))
    refused(copy, f"expected question 'q{lost}' of iter_000 to start where the one before it ends, got a gap")


@pytest.mark.parametrize("kept", [7, 8])
def test_one_question_without_its_line_is_what_a_kill_leaves(copy, kept):
    """The first of its log too, and beside a stage that is done and has no line yet."""
    (copy / "ledger.jsonl").write_bytes(b"".join(lines_of(copy)[:kept]))
    RunFolder.check(copy, CONFIG)
    with open_folder(copy) as folder:
        assert folder.committed_questions(0) == {"q0", "q1", "q2"} and folder.committed_answers(1, "heldout")
        assert folder.committed_questions(1) == frozenset()
        assert not (copy / "iter_001/rollouts-000.jsonl").stat().st_size
        folder.commit_question(1, "q2", *unit("q2"))


def test_a_kill_while_lost_answers_are_cut_off(tmp_path, monkeypatch):
    """After a power loss files are cut first, and the ledger says so last: between the two nothing looks lost."""
    path = tmp_path / "r"
    with open_folder(path) as folder:
        fill(folder, 4)
    before = data_files(path)
    file = path / "iter_000/rollouts-000.jsonl"
    size = file.stat().st_size
    os.truncate(file, size // 2)
    os.truncate(file, size)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "append", kill)
    with pytest.raises(KeyboardInterrupt):
        open_folder(path)
    monkeypatch.undo()
    assert file.stat().st_size < size
    with open_folder(path) as folder:
        assert any("2 questions, from 'q2' on, are not on the disk" in note for note in folder.notes), folder.notes
        fill(folder, 4)
    assert data_files(path) == before
