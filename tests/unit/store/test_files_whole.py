"""Files written by libraries get the umask's mode, whatever mode they were created with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskdpo_ray.store import files


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}


def test_a_folder(tmp_path: Path, umask: int) -> None:
    """A folder like a policy's: safetensors, plain files, one folder deeper; written under a temporary name."""
    path, partial = tmp_path / "policy", tmp_path / "policy.partial"
    with files.written_by_others(path, partial):
        (partial / "deeper").mkdir(parents=True)
        (partial / "config.json").write_text("{}")
        for folder in (partial, partial / "deeper"):
            save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    assert modes(partial) == {0o666 & ~umask}


def test_one_file(tmp_path: Path, umask: int) -> None:
    with files.written_by_others(tmp_path / "a.safetensors"):
        save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert modes(tmp_path) == {0o666 & ~umask}


def test_our_own_files(tmp_path: Path, umask: int) -> None:
    files.write_whole(tmp_path / "summary.json", b"{}")
    files.write_whole(tmp_path / "summary.json", b"[]")
    assert modes(tmp_path) == {0o666 & ~umask}


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "folder"
    theirs.write_text("")
    theirs.chmod(0o600)
    folder.mkdir()
    (folder / "link").symlink_to(theirs)
    with files.written_by_others(folder):
        pass
    assert theirs.stat().st_mode & 0o777 == 0o600
