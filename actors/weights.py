"""A policy on its way from the trainer to the engines: a folder, its version, its checksum.

    trainer rank 0 ── writes policy/ ──► Policy(version, path, checksum)
                                            │ same file system: the path       (normal case)
                                            │ else: the files' bytes, through Ray's object store
                                            ▼
    engine: checks the checksum of what it reads, loads it, answers with version and checksum

There is no collective operation in it, so nothing can hang: each step is one call with a deadline.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import Policy

_BLOCK = 1 << 22
_TICK_NS = 100_000_000
"""Longer than a file system's clock takes for a step."""


def publish(folder: str | Path, version: int) -> Policy:
    """Describe the policy in `folder`. Raises ModelError when it holds no safetensors."""
    return Policy(version=version, path=str(Path(folder).resolve()), checksum=checksum(folder))


def checksum(folder: str | Path) -> str:
    """sha256 over names and bytes of a policy's safetensors files, in order of name."""
    files = _files(folder)
    if not files:
        raise ModelError(f"{folder}: expected at least one .safetensors file, found none")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _files(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).glob("*.safetensors"))


def is_here(policy: Policy) -> bool:
    """Whether this node sees the policy's folder with the published bytes."""
    return Path(policy.path).is_dir() and checksum(policy.path) == policy.checksum


class Looks:
    """One engine's looks for policies: files that it has just read, and that nobody touched since, are not read again.

    A sync asks every engine whether it sees a policy, and each engine looks once more before it loads it.
    """

    def __init__(self) -> None:
        self._last: tuple[Policy, list[tuple[str, int, int, int]]] | None = None

    def is_here(self, policy: Policy) -> bool:
        """Tell whether the policy's folder is here and unchanged; a folder that was checked is not read again."""
        now, before = time.time_ns(), _touched(policy.path)
        if self._last == (policy, before):
            return True
        found = is_here(policy)
        # What was written a moment before may be written again at what the file system calls the same time.
        is_settled = all(now - changed > _TICK_NS for _, _, changed, _ in before)
        self._last = (policy, before) if found and is_settled else None
        return found


def _touched(folder: str | Path) -> list[tuple[str, int, int, int]]:
    """Name, size, time of change and inode of the policy's files, which no writing leaves as they were."""
    found = [(file.name, file.stat()) for file in _files(folder)]
    return [(name, stat.st_size, stat.st_ctime_ns, stat.st_ino) for name, stat in found]


def pack(folder: str | Path) -> dict[str, bytes]:
    """The files of a policy folder, for nodes that don't share a file system with the trainer."""
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()}


def unpack(files: dict[str, bytes], folder: str | Path) -> None:
    """Write packed files into an empty or new folder.

    Raises ValueError for a name that would leave the folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"policy file {name!r}: expected a plain file name")
        (target / name).write_bytes(content)
