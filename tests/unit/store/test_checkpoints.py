"""Checkpoints of a training: the newest whole one counts, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.store.run_folder import RunFolder

TRAINING = {"policy": "a" * 64, "seed": 3, "ranks": 2}


def opened(folder: Path, **training: Any) -> Checkpoints:
    return Checkpoints(folder, 5, {**TRAINING, **training})


def write(checkpoints: Checkpoints, step: int, committed: bool = True) -> None:
    """Files that two ranks write, and the driver."""
    path = checkpoints.clear(step)
    files = {}
    for rank in (0, 1):
        files |= fakes.write_checkpoint(path / "state", f"rank-{rank}", f"{step}/{rank}".encode())
    if committed:
        checkpoints.commit(step, {f"state/{name}": proof for name, proof in files.items()})


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (4, [4]), (5, []), (0, []), (-1, [])])
def test_every_so_many_steps(tmp_path: Path, every: int, due: list[int]) -> None:
    checkpoints = Checkpoints(tmp_path, every, TRAINING)
    assert [step for step in (1, 2, 3, 4) if checkpoints.is_due(step)] == due


def test_the_newest_whole_one_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoints = opened(folder)
    assert (checkpoints.step, checkpoints.notes, folder.exists()) == (0, [], False)
    write(checkpoints, 5)
    write(checkpoints, 10, committed=False)
    assert (checkpoints.step, kept(folder)) == (5, ["step-10", "step-5"])  # there is one at any time
    write(checkpoints, 10)
    assert (checkpoints.step, kept(folder)) == (10, ["step-10"])
    (folder / "mine").touch()
    again = opened(folder)
    assert (again.step, again.notes) == (10, [])
    assert (again.path(10) / "state/rank-1").read_text() == "10/1"
    assert kept(folder) == ["mine", "step-10"]


def test_after_a_kill_before_the_older_one_was_removed(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    write(checkpoints, 5)
    checkpoints.step = 0  # not removed then
    write(checkpoints, 10)
    assert (opened(tmp_path).step, kept(tmp_path)) == (10, ["step-10"])


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        marker = json.loads((folder / "marker.json").read_text())
        (folder / "marker.json").write_text(json.dumps(marker | values))

    return change


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "killed while it was written": (
        lambda folder: (folder / "marker.json").unlink(),
        "{}: expected marker.json, got none: it is half written",
    ),
    "half a file": (
        lambda folder: (folder / "state/rank-1").write_text("10"),
        "{}/state/rank-1: changed after the training ranks left it: expected 4 bytes, SHA-256 ",
    ),
    "other bytes": (
        lambda folder: (folder / "state/rank-1").write_text("10/2"),
        "{}/state/rank-1: changed after the training ranks left it: expected 4 bytes, SHA-256 ",
    ),
    "no file": (
        lambda folder: (folder / "state/rank-0").unlink(),
        "{}/state/rank-0: expected the file that the training ranks left, got none",
    ),
    "half a marker": (
        lambda folder: (folder / "marker.json").write_text('{"training": '),
        "{}/marker.json: expected JSON, got: ",
    ),
    "another model's": (
        changed(training={**TRAINING, "policy": "b" * 64}),
        f"{{}}/marker.json: training.policy: expected '{'a' * 64}', got '{'b' * 64}'",
    ),
    "another number of ranks": (
        changed(training={**TRAINING, "ranks": 4}),
        "{}/marker.json: training.ranks: expected 2, got 4",
    ),
    "a newer version's": (changed(rng=1), "{}/marker.json: unknown field 'rng' in the marker"),
}


@pytest.mark.parametrize("has_older", [True, False])
@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_one_is_reported_and_the_one_before_counts(
    tmp_path: Path, damage: Callable[[Path], Any], message: str, has_older: bool
) -> None:
    checkpoints = opened(tmp_path)
    if has_older:
        write(checkpoints, 5)
        checkpoints.step = 0  # stays beside the next one
    write(checkpoints, 10)
    damage(tmp_path / "step-10")
    found = opened(tmp_path)
    assert found.step == (5 if has_older else 0)
    (note,) = found.notes
    assert note.startswith(message.format(tmp_path / "step-10")) and note.endswith("; this checkpoint is not used")
    assert "\n" not in note
    assert kept(tmp_path) == (["step-5"] if has_older else [])


def test_files_that_the_driver_does_not_see(tmp_path: Path) -> None:
    """Ranks on a node with a file system of its own: found out at the first checkpoint, not at the resume."""
    checkpoints = opened(tmp_path / "here")
    proofs = fakes.write_checkpoint(tmp_path / "there", "rank-0", b"state")
    with pytest.raises(RunFolderError, match="here/step-5/rank-0: expected the file that the training ranks left, got"):
        checkpoints.commit(5, proofs)
    assert checkpoints.step == 0


def test_they_end_with_the_training(tmp_path: Path) -> None:
    """Also when a kill came between the ledger's line and their removal; those of other iterations stay."""
    with RunFolder.open(tmp_path / "run", {}, {}) as folder:
        places = [folder.checkpoint_dir(iteration) for iteration in (0, 1)]
        for place in places:
            write(opened(place), 5)
        fakes.write_policy(folder.policy_dir(0), 1, b"weights")
        folder.finish("train", 0, [folder.policy_dir(0)], checksum="c" * 64)
        assert all(place.exists() for place in places)
    with RunFolder.open(tmp_path / "run", {}, {}):
        assert [place.exists() for place in places] == [False, True]
