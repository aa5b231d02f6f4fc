"""Files that commands write: what they must not replace, and that a failed write leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.store import files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input with links to it, an older output, and a run folder with a link to it."""
    run = tmp_path / "run" / "iter_000"
    run.mkdir(parents=True)
    for name in ("in", "old", "run/ledger.jsonl", "run/config.yaml", "run/iter_000/pairs.jsonl"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "hard").hardlink_to(tmp_path / "in")
    (tmp_path / "to_run").symlink_to("run/iter_000")
    (tmp_path / "to_pairs").symlink_to("run/iter_000/pairs.jsonl")
    (tmp_path / "run/out").symlink_to("../old")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "force", "message"),
    [
        ("in", True, "expected a file to write, got {}/in, which is read"),
        ("in", False, "expected a file to write, got {}/in, which is read"),
        ("./link", True, "expected a file to write, got {}/in, which is read"),
        ("hard", True, "expected a file to write, got {}/in, which is read"),
        ("run/new", False, "expected a place outside of run folders, got one in that of {}/run"),
        ("run/out", True, "expected a place outside of run folders, got one in that of {}/run"),
        ("to_run/new", True, "expected a place outside of run folders, got one in that of {}/run"),
        ("to_pairs", True, "expected a place outside of run folders, got one in that of {}/run"),
        ("old", False, "expected no such file yet, got one; --force replaces it"),
        ("run", True, "expected a file to write, got a folder"),
        ("nowhere/new", False, "expected a file in a folder that exists, got none at {}/nowhere"),
        ("x" * 300, False, "can't be written: File name too long"),
    ],
)
def test_what_is_refused(folder: Path, name: str, force: bool, message: str) -> None:
    with pytest.raises(DataError) as caught:
        files.refuse_existing(folder / name, force, [folder / "gone", "x" * 5000, folder / "in"])
    assert str(caught.value) == f"{folder / name}: {message}".replace("{}", str(folder))


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(DataError, match="expected a file to write, got a device"):
        files.refuse_existing(Path(os.devnull), True, [])


@pytest.mark.parametrize("name", ["new", "old", "loop", "n" * 255])
def test_what_is_written(folder: Path, name: str) -> None:
    before = set(folder.iterdir())
    files.refuse_existing(folder / name, True, [folder / "in"])
    assert files.write_new(folder / name, [{"a": 1}, {}]) == 2
    assert (folder / name).read_text() == '{"a":1}\n{}\n'
    assert set(folder.iterdir()) == before | {folder / name}


def broken() -> Iterator[dict[str, int]]:
    yield {"a": 1}
    raise KeyboardInterrupt


def test_a_failed_write_leaves_nothing(folder: Path) -> None:
    before = {path: path.lstat() for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        files.write_new(folder / "old", broken())
    for name in ("run", "x" * 300, "nowhere/new"):
        with pytest.raises(DataError, match="can't be written: "):
            files.write_new(folder / name, [{"a": 1}])
    assert {path: path.lstat().st_mtime_ns for path in folder.iterdir()} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }
