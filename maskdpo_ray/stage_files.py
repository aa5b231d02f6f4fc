"""Files that a finished stage left, and the proof that they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from maskdpo_ray.entries import Proof
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store.ledger import sync_folder


def prove(folder: Path, files: Iterable[str | os.PathLike[str]]) -> dict[str, Proof]:
    """Path within `folder` -> proof of each file, folders taken with all they hold.

    They are on the disk when this returns. Raises RunFolderError when one is not there, or can't be put there.
    """
    try:
        return {str(file.relative_to(folder)): proof(file) for file in _expand(folder, files)}
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder}: can't be written: {error.strerror}") from error


def proof(file: Path) -> Proof:
    """What `file` holds; it is on the disk when this returns."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    sync_folder(file.parent)
    return Proof(file.stat().st_size, _sha256(file))


def check(folder: Path, files: Mapping[str, Proof], left_by: str, with_hash: bool = True) -> None:
    """Compare files, by their paths within `folder`, with what they held, by size alone without `with_hash`.

    Raises RunFolderError naming the first that differs, and who left it.
    """
    for name, proof in files.items():
        file = folder / name
        if not file.is_file():
            raise RunFolderError(f"{file}: expected the file that {left_by} left, got none")
        if file.stat().st_size != proof.bytes or (with_hash and _sha256(file) != proof.sha256):
            raise RunFolderError(
                f"{file}: changed after {left_by} left it: expected {proof.bytes} bytes, "
                f"SHA-256 {proof.sha256[:12]}..., got {file.stat().st_size} bytes"
            )


def _expand(folder: Path, files: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    for name in files:
        path = folder / name  # an absolute path stays itself
        if not path.exists():
            raise RunFolderError(f"{path}: expected a file or folder that a stage left, got none")
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
