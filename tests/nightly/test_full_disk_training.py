"""`python -m maskdpo_ray.train` on a disk that fills up under its real rank, and has room afterwards."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from driver import Driver
from finished_run import finish, write_pairs

from actors import weights

pytestmark = pytest.mark.timeout(1200)
COMMAND = (sys.executable, "-m", "maskdpo_ray.train")
# The disk (a mount of this process's own) is $0; one attempt for each of the sizes $1, $2, $3, MiB.
_ATTEMPTS = """
disk=$0; sizes="$1 $2 $3"; shift 3
mount -t tmpfs tmpfs $disk || exit 99
for size in $sizes; do
    mount -o remount,size=${size}m $disk
    "$@"
    echo "ended with $? on $size MiB"
done
cp -r $disk/. $disk.kept
"""
_SHELL = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _ATTEMPTS)


def test_checkpoint_and_policy_meet_a_full_disk(tiny_model: Path, disk: Path, tmp_path: Path) -> None:
    """Each is one line that says where, and how much room there is; with room the policy is the undisturbed one's."""
    write_pairs(tmp_path / "pairs.jsonl")
    config = {
        "run": {"name": "run"},
        "model": {"model_name_or_path": str(tiny_model)},
        "train": {"batch_size": 2, "max_epochs": 2, "save_steps": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    call = [str(tmp_path / "pairs.jsonl"), "--config", str(tmp_path / "config.yaml"), "--run.dir"]
    with Driver([*call, str(tmp_path / "plain")], tmp_path / "plain.log", COMMAND) as driver:
        plain = finish(driver, tmp_path / "plain/run")
    assert plain.code == 0, plain.output
    command = (*_SHELL, str(disk), "20", "75", "400", *COMMAND)
    with Driver([*call, str(disk)], tmp_path / "full.log", command) as driver:
        full = finish(driver, Path(f"{disk}.kept/run"))
    assert full.code == 0 and full.left == [] and "Traceback" not in full.output, full.output
    assert [line for line in full.output.splitlines() if line.startswith("ended with")] == [
        "ended with 2 on 20 MiB",
        "ended with 2 on 75 MiB",
        "ended with 0 on 400 MiB",
    ], full.output
    errors = [line for line in full.output.splitlines() if line.startswith("error: ")]
    assert [re.search(r"iter_000/(\S+): can't be written: ", error)[1] for error in errors] == [
        "checkpoint/step-2",
        "checkpoint/step-4",
    ]
    assert all(re.search(r"\([0-9]+ MiB are free there\)", error) for error in errors), errors
    assert "training resumes after step 2 of 4" in full.output
    policies = [weights.publish(run.folder / "iter_000/policy", 1) for run in (full, plain)]
    assert policies[0].checksum == policies[1].checksum
