"""`benchmarks/simulation.py`, small: the real loop, groups and run folder over simulated actors on a real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_answer_is_committed_once(bundled_model: Path, tmp_path: Path) -> None:
    shape = {"questions": 60, "engines": 6, "processes": 2, "slots": 4, "seconds": 0.1, "annotators": 2}
    words = [word for name, value in shape.items() for word in (f"--{name}", str(value))]
    words += ["--model", str(bundled_model), "--folder", str(tmp_path), "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "benchmarks/simulation.py", *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    lines = (tmp_path / "run/iter_000/questions.jsonl").read_text().splitlines()
    answers = [(row["question_id"], row["sample"]) for line in lines for row in json.loads(line)["rollouts"]]
    assert found["answers"] == len(answers) == len(set(answers)) == 480
    # 60 questions of 0.1 s, give or take a fifth, over 24 slots.
    assert found["ideal_s"] > 60 * 0.08 / 24 and 0 <= found["lost"] < 1
    assert found["collect_s"] > found["ideal_s"]
    assert (tmp_path / "run/eval_001/heldout.json").exists()
    assert found["report"]["bytes"] == (tmp_path / "run/report.html").stat().st_size > 10_000
