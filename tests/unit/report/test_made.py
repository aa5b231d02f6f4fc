"""How an experiment's runs were made, as its folder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluated_arms import experiment_in, runs_of

from maskdpo_ray.records import decode
from maskdpo_ray.report.experiments import made
from maskdpo_ray.report.experiments.made import Made


def opened(time: float, commit: str | None, torch: str = "2.13") -> dict[str, Any]:
    versions = {"torch": torch, **({} if commit is None else {"commit": commit})}
    return {"stage": "open", "time": time, "schema": 3, "pid": 1, "host": "h", "versions": versions, "changed": {}}


def finished(stage: str, time: float, **facts: str) -> dict[str, Any]:
    return {"stage": stage, "iteration": 0, "finished": time, "facts": facts, "files": {}, "logs": {}}


def test_every_run_has_its_commits_versions_and_seconds(tmp_path: Path) -> None:
    """Pauses between processes are no work; a run says what it took over."""
    experiment, runs = experiment_in(tmp_path), runs_of(tmp_path)
    begin = 1796042070.0  # 2026-11-30
    of_name = {
        "masked-seed1": [opened(begin, "aa"), finished("evaluate-heldout", begin + 5)],
        "unmasked-seed1": [
            opened(begin, "aa"),
            finished("fork", begin + 1, of="masked-seed1", shared="evaluation of policy 0"),
            opened(begin + 100, "bb", "2.14"),
            opened(begin + 200, "bb", "2.14"),
            finished("evaluate-heldout", begin + 207),
        ],
    }
    for name, lines in of_name.items():
        (runs[name].folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made.write(experiment, {name: runs[name] for name in of_name})
    found = decode(Made, (experiment.folder / "made.json").read_bytes())
    first, second = found.runs.values()
    assert (first.started, first.commits, first.seconds, first.shared) == ("2026-11-30", ("aa",), 5.0, "")
    assert (second.commits, second.versions, second.seconds) == (("aa", "bb"), {"torch": "2.14"}, 8.0)
    assert second.shared == "masked-seed1: evaluation of policy 0"
    assert found.command == f"python -m maskdpo_ray.experiment {experiment.file}" and found.hosts == 1
    assert " cores, " in found.machine
    assert (experiment.folder / "experiment.yaml").read_bytes() == experiment.file.read_bytes()
