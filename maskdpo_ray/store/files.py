"""Files that survive kills, power losses and full disks: how a run, and the commands beside it, write them.

A whole file is the old one or the new one, whatever happens while it is written. A file that grows does so by whole
lines. What a finished stage left is proven by size and SHA-256. One process at a time writes a run folder.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from maskdpo_ray.errors import DataError, RunFolderError, one_line
from maskdpo_ray.records import Decoded, NotJSON, Record, decode, encode_line

Parsed = TypeVar("Parsed")
_CHUNK = 2**16
_temporaries = itertools.count()


def sync_folder(folder: Path) -> None:
    """Make new and renamed names in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """A file that grows by whole lines; what could not be written is taken back."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises RunFolderError when that can't be."""
        self.path = path
        new = not path.exists()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunFolderError(f"{path}: can't be written: {error.strerror}") from error
        if new:
            sync_folder(path.parent)
        self.size = os.fstat(self._descriptor).st_size

    def append(self, data: bytes, durable: bool = False) -> None:
        """Add lines; `durable`: they are on the disk when this returns.

        Raises RunFolderError (disk full, for one) and leaves the file as it was.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self.size)
            raise RunFolderError(f"{self.path}: can't be written: {error.strerror}") from error
        self.size += len(data)

    def cut(self, size: int) -> int:
        """Cut off what comes after `size` bytes; how many bytes that were."""
        torn = self.size - size
        if torn:
            os.ftruncate(self._descriptor, size)
            self.size = size
        return torn

    def cut_torn(self) -> int:
        """Cut off a last line that a kill left without its end; how many bytes that were."""
        end = self.size
        while end:
            start = max(0, end - _CHUNK)
            newline = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                return self.cut(start + newline + 1)
            end = start
        return self.cut(0)

    def hold(self) -> None:
        """Keep other processes from writing it, until it is closed. Raises RunFolderError when one does."""
        if not _locks(self._descriptor, fcntl.LOCK_EX):
            raise RunFolderError(f"{self.path}: another process writes this file; wait for it or stop it")
        self.size = os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_lines(path: Path, parse: Callable[[bytes], Parsed]) -> Iterator[tuple[Parsed, bytes]]:
    """(value, line) of each whole line, none when there is no file.

    A last line without an end, or without JSON (a power loss can leave the newline and not what stood before it), is
    torn: left out. Raises RunFolderError naming any other line for which `parse` raises NotJSON or ValueError.
    """
    not_json: RunFolderError | None = None
    try:
        if not path.exists():
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not_json is not None:
                    raise not_json
                if not line.endswith(b"\n"):
                    return
                try:
                    value = parse(line[:-1])
                except NotJSON as error:
                    not_json = RunFolderError(f"{path}, line {number}: {error}")
                    continue
                except ValueError as error:
                    raise RunFolderError(f"{path}, line {number}: {error}") from error
                yield value, line
    except OSError as error:
        raise RunFolderError(f"{path}: can't be read: {error.strerror}") from error


_WRITE_ERRORS = ("inline_container", "PytorchStreamWriter", "(os error ")


def write_whole(target: Path, data: bytes) -> None:
    """Write or replace `target`, its folder made when missing. Raises RunFolderError when that can't be."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(data)
    except OSError as error:
        raise RunFolderError(f"{target}: can't be written: {error.strerror}") from error


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


def link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target`; one that is there is replaced at once. Raises RunFolderError."""
    if path.is_symlink():
        if os.readlink(path) == str(target):
            return
    elif path.exists():
        raise RunFolderError(f"{path}: expected a symbolic link to {target}, or nothing, got files; move them away")
    temporary = path.with_name(f".{os.getpid()}-{next(_temporaries)}.tmp")
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        remedy = "; give a run.dir on a file system with symbolic links" * (error.errno in _NO_LINKS)
        raise RunFolderError(f"{path}: can't be a symbolic link to {target}: {error.strerror}{remedy}") from error


@contextmanager
def written_by_others(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Context for libraries that write to `path`, or first to `partial`: a full disk becomes one line with the free
    space, and the files get the mode of the umask (safetensors makes them readable by their owner only).

    Raises RunFolderError for OSError, and for the errors that torch and safetensors raise in place of one.
    """
    try:
        yield
        _follow_umask(partial or path)
    except Exception as error:
        if not isinstance(error, OSError) and not any(words in str(error) for words in _WRITE_ERRORS):
            raise
        nearest = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(nearest).free >> 20
        why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise RunFolderError(f"{path}: can't be written: {why} ({free} MiB are free there)") from error


def _follow_umask(path: Path) -> None:
    """Set the mode of a file, or of all files in a folder, to that of a newly created file."""
    status = Path("/proc/self/status").read_text()  # os.umask can't be read without setting it, for all threads
    mode = 0o666 & ~int(status.partition("Umask:")[2].split()[0], 8)
    for file in (path, *path.rglob("*")):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A temporary file, opened to be written; it takes the name `target` at the end, and goes after an exception.

    Raises OSError.
    """
    # Short: with the name in it, it could be too long. One of its own, as another file may be written meanwhile.
    temporary = target.with_name(f".{os.getpid()}-{next(_temporaries)}.tmp")
    file = temporary.open("wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


class Proof(Record):
    """Size and hash of a file when its stage was finished."""

    bytes: int
    sha256: str


def prove(folder: Path, files: Iterable[str | os.PathLike[str]]) -> dict[str, Proof]:
    """Path within `folder` -> proof of each file, folders taken with all they hold.

    They are on the disk when this returns. Raises RunFolderError when one is not there, or can't be put there.
    """
    try:
        return {str(file.relative_to(folder)): proof(file) for file in _expand(folder, files)}
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder}: can't be written: {error.strerror}") from error


def proof(file: Path) -> Proof:
    """Size and hash of `file`, which is on the disk when this returns."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    sync_folder(file.parent)
    return Proof(file.stat().st_size, _sha256(file))


def check_proof(folder: Path, files: Mapping[str, Proof], left_by: str, with_hash: bool = True) -> None:
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


def read_json(file: Path, kind: type[Decoded]) -> Decoded:
    """The record of `kind`, or the JSON values, in `file`. Raises RunFolderError when it is missing or is not one."""
    if not os.path.isfile(file):
        raise RunFolderError(f"{file}: expected a file that an earlier stage wrote, got none")
    try:
        return decode(kind, file.read_bytes())
    except ValueError as error:
        raise RunFolderError(f"{file}: {error}") from error
    except OSError as error:
        raise RunFolderError(f"{file}: can't be read: {error.strerror}") from error


LOCK_NAME = "run.lock"


def hold_lock(folder: Path) -> int:
    """Take the lock and return its descriptor: closing that frees it.

    Raises RunFolderError when another process holds it, OSError when it can't be made.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, folder, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_held(folder: Path) -> None:
    """Raise RunFolderError when another process holds the lock, OSError when it can't be read. Writes nothing."""
    if not os.path.lexists(folder / LOCK_NAME):
        return
    # Opened for writing, as `hold_lock` will: else a lock of somebody else's, or a folder, is seen too late.
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(descriptor, folder, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


class LockHolder(Record):
    """The process that took the lock last."""

    pid: int
    host: str
    since: float
    """Unix seconds, by the clock of the file system."""
    is_alive: bool | None
    """None: it runs on another machine, where nobody can see it from here."""


def lock_holder(folder: Path) -> LockHolder | None:
    """Who took the lock last, None where nobody did. Raises OSError when it can't be read.

    The lock is not tried: held for a moment only, it could refuse a run that starts then.
    """
    try:
        with (folder / LOCK_NAME).open("rb") as file:
            found, status = _HOLDER.fullmatch(file.read(300).decode(errors="replace")), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    if found is None:  # taken, and not yet written
        return None
    pid, host = int(found[1]), found[2]
    is_held = any(_is_of(line, status, pid) for line in Path("/proc/locks").read_text().splitlines())
    return LockHolder(pid, host, status.st_mtime, is_held if host == socket.gethostname() else is_held or None)


_HOLDER = re.compile(r"process (\d{1,9}) on (\S+)\n")


def _is_of(line: str, status: os.stat_result, pid: int) -> bool:
    """Whether a line of the kernel's list of locks, "1: FLOCK ADVISORY WRITE 4711 fe:01:815 0 EOF", is of this file."""
    words = line.split()
    device, _, number = words[5].rpartition(":") if len(words) > 5 else ("", "", "")
    # Some file systems show one device here and another in `stat`.
    is_there = device == f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}" or words[4:5] == [str(pid)]
    return is_there and number == str(status.st_ino)


def _lock(descriptor: int, folder: Path, kind: int) -> None:
    if not _locks(descriptor, kind):
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        raise RunFolderError(f"{folder}: another run writes this folder ({holder}); wait for it or stop it")


def _locks(descriptor: int, kind: int) -> bool:
    """Lock an open file; the system frees it when the process ends. False when another process holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_ROWS = 1024
_OTHERS = (".csv", ".tsv", ".arrow", ".feather", ".ipc", ".orc", ".xlsx", ".zip", ".bz2", ".xz", ".zst", ".pkl", ".npz")
"""Suffixes of formats that are not written: some hold no lists, and JSON Lines under another suffix would mislead."""


def refuse_existing(path: Path, force: bool, inputs: Iterable[str | Path], grows: bool = False) -> None:
    """Raise DataError unless `path` can become a new file, or with `force` replace one.

    A file that `grows` has to be uncompressed JSON Lines.

    Refused, also through links: one of `inputs` (names that are not files are ignored), and files in a run folder.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHERS or grows and suffix in (".parquet", ".gz"):
        others = "" if grows else ", .jsonl.gz or .parquet"
        raise DataError(f"{path}: expected a file to write that ends in .jsonl{others}, got one in {suffix}")
    try:
        there = path.exists()
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from None
    if there and not path.is_file():
        raise DataError(f"{path}: expected a file to write, got {'a folder' if path.is_dir() else 'a device'}")
    for name in inputs:
        if there and os.path.exists(name) and path.samefile(name):
            raise DataError(f"{path}: expected a file to write, got {name}, which is read")
    refuse_in_run_folder(path)
    if there and not force:
        raise DataError(f"{path}: expected no such file yet, got one; --force replaces it")
    if not path.parent.is_dir():
        raise DataError(f"{path}: expected a file in a folder that exists, got none at {path.parent}")


def refuse_in_run_folder(path: Path) -> None:
    """Raise DataError when `path`, or what it is a link to, lies within a run's folder, which is the run's alone."""
    # realpath, as it never raises.
    for place in (Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(path))):
        for folder in place.parents:
            if is_run_folder(folder):
                raise DataError(f"{path}: expected a place outside of run folders, got one in that of {folder}")


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds what every run writes first."""
    return all(os.path.isfile(path / name) for name in ("ledger.jsonl", "config.yaml"))  # isfile never raises


def write_new(path: Path, values: Iterable[Any]) -> int:
    """Write records or JSON values as they arrive; the file gets its name once all are on disk.

    One per line; .gz is compressed, .parquet is a table. Returns their number. An exception of `values` propagates and
    leaves no file behind. Raises DataError when the file can't be written.
    """
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for value in values:
            count += 1
            yield encode_line(value)

    try:
        with replacing(path) as file:
            if path.suffix.lower() == ".parquet":
                _write_table(path, lines(), file)
            elif path.suffix.lower() == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
                    compressed.writelines(lines())
            else:
                file.writelines(lines())
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from error
    return count


def _write_table(path: Path, lines: Iterator[bytes], file: BinaryIO) -> None:
    """Write Parquet with a column for each field. Raises DataError for values that don't fit one column type."""
    import pyarrow
    import pyarrow.parquet

    chunks = []
    try:
        while rows := [json.loads(line) for line in islice(lines, _ROWS)]:
            names = list(dict.fromkeys(name for row in rows for name in row))
            columns = {name: pyarrow.array([row.get(name) for row in rows]) for name in names}
            chunks.append(pyarrow.table(columns))
        if chunks:
            pyarrow.parquet.write_table(pyarrow.concat_tables(chunks, promote_options="permissive"), file)
        else:
            pyarrow.parquet.write_table(pyarrow.table({}), file)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: expected values that the columns of a table can hold, got: {one_line(error)}; .jsonl holds them"
        ) from None
