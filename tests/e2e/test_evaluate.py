"""`python -m maskdpo_ray.evaluate` on a real engine: it finds what a run's own evaluation found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from driver import Driver
from finished_run import Run, arguments, finish

# The fixture's run counts towards the test that first asks for it.
pytestmark = pytest.mark.timeout(2400)
COMMAND = (sys.executable, "-m", "maskdpo_ray.evaluate")
SPLITS = ("heldout", "transfer")


def call(folder: Path, config: Path, *words: str) -> Run:
    with Driver([*words, *arguments(folder, config)], folder.with_suffix(".log"), COMMAND) as driver:
        run = finish(driver, folder)
    assert run.code == 0 and run.left == [] and "Traceback" not in run.output, run.output
    return run


def refuse_other_figures(ours: Path, theirs: Path) -> None:
    for name in (f"{split}{kind}.json" for split in SPLITS for kind in ("", "-judged")):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_it_finds_what_a_run_found(masked_run: Run, smallest: Path, runs_dir: Path) -> None:
    """The model that the run began with; then the last policy's answers, compared with the first's."""
    base = call(runs_dir / "eval-base", smallest)
    refuse_other_figures(base.folder / "eval_000", masked_run.folder / "eval_000")
    assert not list(base.folder.glob("iter_*")) and "training ranks" not in base.output
    answers = runs_dir / "answers.jsonl"
    last = masked_run.folder / "eval_002"
    answers.write_text("".join((last / f"{split}-rollouts.jsonl").read_text() for split in SPLITS))
    given = call(runs_dir / "eval-given", smallest, str(answers), "--against", f"{masked_run.folder}:0")
    refuse_other_figures(given.folder / "eval_000", last)
    assert "rollout engines" not in given.output
    summary, of_run = given.read("summary.json"), masked_run.read("summary.json")
    for split in SPLITS:
        gains = [each["evaluations"][split][-1]["gain"] for each in (summary, of_run)]
        assert gains[0] == gains[1] and gains[0] is not None
        written = json.loads((last / f"{split}-gain.json").read_text())
        assert written["metrics"] == gains[0]
