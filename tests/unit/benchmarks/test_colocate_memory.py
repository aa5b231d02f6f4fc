"""The memory of a command and its children, and which files of two run folders differ."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks import colocate_memory
from benchmarks.colocate_memory import MIB

TAKES = "import sys, time; taken = bytearray(int(sys.argv[1]) * 2**20); time.sleep(0.6)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TAKES!r}, '60'], check=True)"


def test_the_peak_is_that_of_all_processes_together() -> None:
    small, large = (
        colocate_memory.measured([sys.executable, "-c", code, "10"], interval=0.05) for code in (TAKES, PARENT)
    )
    assert small.samples > 3 and small.seconds > 0.6
    assert 10 * MIB < small.peak < 60 * MIB < large.peak
    assert sum(large.of.values()) == large.peak
    assert colocate_memory.proportional_set(os.getpid()) > MIB and colocate_memory.proportional_set(2**30) == 0


def test_a_command_that_fails_says_so() -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        colocate_memory.measured([sys.executable, "-c", "raise SystemExit('no such thing')"], interval=0.05)


def test_differences_are_of_bytes_and_not_of_the_order_of_questions(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, lines in ((one, ["a", "b"]), (other, ["b", "a"])):
        (folder / "iter_000/policy").mkdir(parents=True)
        (folder / "iter_000/policy/model.safetensors").write_bytes(b"weights")
        (folder / "iter_000/questions.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (folder / "metrics.jsonl").write_text(f"{lines}")  # which has times
    assert colocate_memory.different(one, other) == []
    (other / "iter_000/policy/model.safetensors").write_bytes(b"others")
    (one / "eval_000").mkdir()
    (one / "eval_000/heldout.json").write_text("{}")
    assert colocate_memory.different(one, other) == ["eval_000/heldout.json", "iter_000/policy/model.safetensors"]
    with pytest.raises(SystemExit, match="expected a run folder"):
        colocate_memory.different(tmp_path / "absent", tmp_path / "absent")
