"""View that a dry run has of a folder that it must not write: another run's lock, and what the next iteration needs."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from test_run_folder import CONFIG, open_folder

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store.files import hold_lock, lock_holder
from maskdpo_ray.store.run_folder import RunFolder


def test_a_folder_that_a_run_writes_is_refused_until_it_ends(tmp_path):
    with open_folder(tmp_path / "r"):
        expected = rf"r: another run writes this folder \(process {os.getpid()} on .*\); wait for it or stop it$"
        with pytest.raises(RunFolderError, match=expected):
            RunFolder.check(tmp_path / "r", CONFIG)
        with pytest.raises(RunFolderError, match=expected):
            open_folder(tmp_path / "r")
    RunFolder.check(tmp_path / "r", CONFIG)
    RunFolder.check(tmp_path / "r", CONFIG)  # and leaves no lock behind
    open_folder(tmp_path / "r").close()


@pytest.mark.parametrize("refuse", [RunFolder.check, open_folder])
def test_a_lock_that_is_a_folder(tmp_path, refuse):
    (tmp_path / "r" / "run.lock").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"run.lock: can't be (used|written): Is a directory$"):
        refuse(tmp_path / "r", CONFIG)


def test_the_newest_policy_must_be_there(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        for iteration in (0, 1):
            target = folder.policy_dir(iteration)
            target.mkdir()
            (target / "model.safetensors").write_bytes(b"weights")
            folder.finish("train", iteration, [target], checksum="c")
    shutil.rmtree(path / "iter_000/policy")  # an older one may go, to make room
    RunFolder.check(path, CONFIG)
    weights = path / "iter_001/policy/model.safetensors"
    weights.write_bytes(b"weight")
    with pytest.raises(RunFolderError, match=r"iter_001/policy/model.safetensors: changed after .* got 6 bytes$"):
        RunFolder.check(path, CONFIG)
    weights.unlink()
    with pytest.raises(RunFolderError, match="model.safetensors: expected the file that stage 'train' left, got none"):
        RunFolder.check(path, CONFIG)


def test_who_holds_a_lock_is_seen_without_touching_it(tmp_path):
    assert lock_holder(tmp_path) is None
    descriptor = hold_lock(tmp_path)
    holder = lock_holder(tmp_path)
    assert (holder.pid, holder.host, holder.is_alive) == (os.getpid(), socket.gethostname(), True)
    assert holder.since == (tmp_path / "run.lock").stat().st_mtime
    os.close(descriptor)  # the process lives, and its run has ended
    assert lock_holder(tmp_path).is_alive is False


def test_a_killed_holder_is_not_alive(tmp_path):
    code = f"""import pathlib, time; from maskdpo_ray.store.files import hold_lock
hold_lock(pathlib.Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert (lock_holder(tmp_path).pid, lock_holder(tmp_path).is_alive) == (process.pid, True)
        process.kill()
    assert lock_holder(tmp_path).is_alive is False


def test_of_a_holder_on_another_machine_nobody_knows(tmp_path):
    (tmp_path / "run.lock").write_text(f"process {os.getpid()} on another-machine\n")
    assert lock_holder(tmp_path).is_alive is None


@pytest.mark.parametrize("content", ["", "process on\n", "process 12 on vm"])
def test_a_lock_that_is_being_written_says_nothing(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    assert lock_holder(tmp_path) is None
