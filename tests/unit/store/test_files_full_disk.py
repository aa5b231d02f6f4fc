"""A disk that is full, a real one: wherever the loop was, it stops with one line, and goes on when there is room."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# The mount is this process's own, and goes when it ends.
_MOUNTED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"')
_FIRST, _MORE, _LAST = 8, 4, 2000
"""Sizes of the disk, KiB: of the first attempt, how much each one after it has more, and an end."""


def test_the_loop_on_a_disk_that_grows(disk: Path, tmp_path: Path) -> None:
    """Each attempt gets as far as its disk lets it; the last one leaves what an undisturbed run leaves."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [*_MOUNTED, disk, sys.executable, __file__, disk, tmp_path],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert all(line.endswith("can't be written: No space left on device") and "\n" not in line for line in said)
    files = {Path(line.split(":")[0]).name for line in said}
    # Which file meets the end of a page is chance; log-probs have a test of their own below.
    assert {"ledger.jsonl", "metrics.jsonl", "questions.jsonl", "examples.bin"} <= files, files


def test_log_probs_on_a_full_disk(disk: Path) -> None:
    """The file of log-probs is written piece by piece: one line, and no half of it stays."""
    code = """
import sys, numpy as np
from pathlib import Path
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import reference
from maskdpo_ray.training.example_store import ExampleStore
folder, size = Path(sys.argv[1]), 2**19
pair = TrainingExample.of_pair("p", (1,), (2,) * size, (3,), (0.0,) * size, (1.0,))
store = ExampleStore.write(Path(sys.argv[2]), [pair])
reference.save(folder / "logps.safetensors", store, [(np.zeros(size, np.float32), np.zeros(1, np.float32))], "c")
"""
    mount = [word.replace("tmpfs tmpfs", "tmpfs -o size=1m tmpfs") for word in _MOUNTED]
    elsewhere = disk.with_name("elsewhere")
    command = [*mount, disk, sys.executable, "-c", code, disk, elsewhere]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert re.search(rf"RunFolderError: {disk}/logps.safetensors: can't be written: No space left", last), done.stderr


@pytest.mark.parametrize("save", ["safetensors.torch.save_file({{'a': big}}, {})", "torch.save(big, {})"])
def test_libraries_that_write(disk: Path, save: str) -> None:
    """Errors of safetensors and torch are one line."""
    code = f"""
import sys, torch, safetensors.torch
from pathlib import Path
from maskdpo_ray.store import files
file, big = Path(sys.argv[1]) / "file", torch.zeros(2**20)
with files.written_by_others(file):
    {save.format("file")}
"""
    mount = [word.replace("tmpfs tmpfs", "tmpfs -o size=1m tmpfs") for word in _MOUNTED]
    done = subprocess.run([*mount, disk, sys.executable, "-c", code, disk], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert re.search(rf"RunFolderError: {disk}/file: can't be written: .+ \([01] MiB are free there\)$", last), (
        done.stderr
    )


def attempts(disk: Path, whole: Path) -> list[str]:
    """The error lines of all attempts but the last, which ends."""
    import fake_run
    import fakes

    from maskdpo_ray.errors import RunFolderError

    def write(folder: Path, name: str, content: bytes) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        except OSError as error:  # as ranks say it
            raise RunFolderError(f"{folder / name}: can't be written: {error.strerror}") from error

    fakes.write_file = write
    fake_run.run(whole)
    said = []
    for size in range(_FIRST, _LAST, _MORE):
        subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        # Each process writes the examples anew. Replaced ones would free just the space that the next file takes, the
        # reference's log-probs, and only chance would let the disk be full there.
        for examples in disk.glob("run/iter_*/checkpoint/examples.bin"):
            examples.unlink()
        try:
            fake_run.run(disk)
        except RunFolderError as error:
            said.append(str(error))
        else:
            assert fake_run.results(disk) == fake_run.results(whole)
            return said
    raise AssertionError("it never ended")


if __name__ == "__main__":
    print(json.dumps(attempts(Path(sys.argv[1]), Path(sys.argv[2]))))
