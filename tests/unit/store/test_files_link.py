"""Links to a folder: replaced at once, and one line where a file system has none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store import files


def test_a_link_is_made_and_replaced(tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        files.link(tmp_path / "link", Path(name))
        assert os.readlink(tmp_path / "link") == name and (tmp_path / "link").is_dir()
    (tmp_path / "b").rmdir()
    files.link(tmp_path / "link", Path("a"))  # from one that leads nowhere
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.EPERM, "; give a run.dir on a file system with symbolic links"), (errno.ENOSPC, "")]
)
def test_no_link_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(RunFolderError) as caught:
        files.link(tmp_path / "link", Path("a"))
    assert str(caught.value) == f"{tmp_path}/link: can't be a symbolic link to a: {os.strerror(code)}{remedy}"
    assert not os.listdir(tmp_path)


def test_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").write_text("mine")
    with pytest.raises(RunFolderError, match="expected a symbolic link to a, or nothing, got files; move them away"):
        files.link(tmp_path / "link", Path("a"))
    assert (tmp_path / "link").read_text() == "mine"
