"""`python -m maskdpo_ray.train` learns; killed in the middle and deprived of a rank, it ends with the same policy."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from driver import Driver, family
from finished_run import Run, finish, write_pairs
from safetensors.torch import load_file

from actors import weights

pytestmark = pytest.mark.timeout(1200)
COMMAND = (sys.executable, "-m", "maskdpo_ray.train")
STEPS, SAVE_STEPS = 40, 5
# Steps after which all is killed, and after which a rank of the second life is.
KILLED, DEPRIVED = 12, 24


@dataclass(frozen=True)
class Lives:
    """A training that was let alone, the same call again, and one that was not let alone: its end, and what it had
    printed and left when killed."""

    plain: Run
    again: Run
    resumed: Run
    steps_at_kill: int
    left_at_kill: list[str]


def steps_of(folder: Path) -> int:
    """Steps that are logged, those that were done again too."""
    file = folder / "metrics.jsonl"
    return file.read_text(encoding="utf-8").count("train/loss") if file.exists() else 0


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.nightly)])
def lives(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """Under ZeRO-2 with one rank, and with two."""
    tmp_path = tmp_path_factory.mktemp(f"ranks-{request.param}")
    write_pairs(tmp_path / "pairs.jsonl")
    config = {
        "run": {"dir": str(tmp_path)},
        "model": {"model_name_or_path": str(tiny_model)},
        "train": {
            "num_ranks": request.param,
            "batch_size": 2,
            "max_epochs": STEPS // 2,
            "save_steps": SAVE_STEPS,
            "lr_warmup_ratio": 0,
        },
        "adam": {"lr": 1e-3},
        "ds": {"param_dtype": "fp32"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def start(name: str, life: int = 1) -> Driver:
        call = [str(tmp_path / "pairs.jsonl"), "--config", str(tmp_path / "config.yaml"), "--run.name", name]
        return Driver(call, tmp_path / f"{name}-{life}.log", COMMAND)

    with start("plain") as driver:
        plain = finish(driver, tmp_path / "plain")
    assert plain.code == 0, plain.output
    with start("plain", life=2) as driver:
        again = finish(driver, tmp_path / "plain")
    folder = tmp_path / "killed"
    with start("killed") as driver:
        driver.wait_for(lambda: steps_of(folder) >= KILLED)
        for process in (*family(driver, "ray::TrainingRank")[-1:], driver.process):
            process.kill()
        driver.wait(60)
    steps, left = steps_of(folder), sorted(path.name for path in (folder / "iter_000").iterdir())
    with start("killed", life=2) as driver:
        driver.wait_for(lambda: steps_of(folder) >= steps + DEPRIVED - KILLED)
        family(driver, "ray::TrainingRank")[-1].kill()
        resumed = finish(driver, folder)
    return Lives(plain, again, resumed, steps, left)


def losses(run: Run) -> dict[int, Any]:
    """By step; the last line counts."""
    return {line["step"]: line["train/loss"] for line in run.lines("metrics.jsonl") if "train/loss" in line}


def test_it_learns(lives: Lives, tiny_model: Path) -> None:
    """The policy learns the pairs, is left as a Hugging Face folder, and a second call starts nothing."""
    run = lives.plain
    assert run.code == 0 and run.left == [], run.output
    assert "learned from 4 of 4 pairs" in run.output and "Traceback" not in run.output
    summary = run.read("summary.json")
    assert summary["steps"] == STEPS
    assert summary["first"]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy and reference are the same
    assert summary["last"]["loss"] < summary["first"]["loss"] and summary["last"]["accuracy"] == 1.0
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, Path(summary["policy"])))
    assert any(not before[name].equal(after[name]) for name in before)
    assert json.loads((Path(summary["policy"]) / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert "pairs of `pairs.jsonl`" in (Path(summary["policy"]) / "README.md").read_text()
    again = lives.again
    assert again.code == 0 and "is finished: nothing is left to do" in again.output, again.output


def test_it_was_killed_while_it_trained(lives: Lives) -> None:
    """Else the other tests say nothing."""
    assert KILLED <= lives.steps_at_kill < STEPS
    assert "checkpoint" in lives.left_at_kill and "policy" not in lives.left_at_kill


def test_it_resumes_where_it_was(lives: Lives) -> None:
    """From checkpoints: at most as many steps are done again as lie between two, for each of the two kills."""
    assert lives.resumed.code == 0 and lives.resumed.left == [], lives.resumed.output
    output = lives.resumed.output
    first = int(re.search(rf"training resumes after step (\d+) of {STEPS}\n", output)[1])
    (second,) = re.findall(r"training rank \d died: .*; the group starts again after step (\d+)\n", output)
    assert first % SAVE_STEPS == int(second) % SAVE_STEPS == 0
    assert lives.steps_at_kill - SAVE_STEPS <= first <= lives.steps_at_kill < int(second) + SAVE_STEPS
    assert "Traceback" not in output and not (lives.resumed.folder / "error.log").exists()


def test_nothing_else_is_different(lives: Lives) -> None:
    """Weights bit for bit, and the metrics of every step."""
    policies = [run.folder / "iter_000" / "policy" for run in (lives.plain, lives.resumed)]
    assert weights.checksum(policies[0]) == weights.checksum(policies[1])
    assert losses(lives.plain) == losses(lives.resumed) and list(losses(lives.plain)) == list(range(STEPS))
    for run in (lives.plain, lives.resumed):
        (tokens,) = (line["tokens/train"] for line in run.lines("metrics.jsonl") if "tokens/train" in line)
        assert tokens == run.read("summary.json")["tokens"]
    plain, resumed = (run.read("summary.json") for run in (lives.plain, lives.resumed))
    for name in ("steps", "tokens"):
        assert plain[name] == resumed[name]
    assert plain["first"]["loss"] == resumed["first"]["loss"] > resumed["last"]["loss"] == plain["last"]["loss"]


def test_no_checkpoint_is_left(lives: Lives) -> None:
    for run in (lives.plain, lives.resumed):
        assert not (run.folder / "iter_000" / "checkpoint").exists()
