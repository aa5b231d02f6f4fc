"""The command that tries an objective: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maskdpo_ray import check_objective
from maskdpo_ray.errors import ConfigError

OWN = "python:objective_batches"


def test_it_prints_a_line_for_each_try(capsys: pytest.CaptureFixture[str]) -> None:
    check_objective.main([f"{OWN}:own_margin", "--options", "{margin: 0.5}", "--beta", "0.3"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{OWN}:own_margin: a loss for each pair; needs a reference"
    assert {line.split()[0] for line in lines} == {"ok"} and len(lines) >= 10
    assert lines[-1].endswith("where policy and reference are the same: loss 0.5, chosen up, rejected down")


def test_a_failure_ends_with_1_a_note_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check_objective.main([f"{OWN}:by_place"])
    assert ended.value.code == 1 and "  FAILED  micro-batches add up" in capsys.readouterr().out
    check_objective.main(["tdpo"])
    out = capsys.readouterr().out
    assert out.startswith("tdpo: a loss for each pair; needs a reference, its distribution\n")
    assert "    note  gradients are those of finite differences in float64: not by `kl`: right if " in out


def test_what_an_objective_needs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for name, needs in (
        ("kto", "kto: a loss for each response; needs a reference, mean log-ratio of mismatched responses"),
        ("sft", "sft: a loss for each chosen response; needs the policy alone"),
    ):
        check_objective.main([name])
        assert capsys.readouterr().out.splitlines()[0] == needs


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "OBJECTIVE: expected a value, got nothing (see --help)"),
        (["dop"], "objective.name: expected one of apo_zero, "),
        (
            ["dpo", "--options", "{label_smoothing: 2}"],
            "objective.options: dpo: label_smoothing: expected 0 to below 0.5",
        ),
        (["dpo", "--options", "2"], "--options: expected a mapping {name: value} or none, got '2'"),
        (["dpo", "--beta", "0"], "--beta: expected a number above 0, got '0' (see --help)"),
        (["dpo", "--betta", "0.1"], "--betta: unknown option; did you mean --beta? (see --help)"),
    ],
)
def test_bad_input_is_one_line(words: list[str], error: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_objective.main(words)
    assert str(refused.value).startswith(error)


def test_as_a_command() -> None:
    command = [sys.executable, "-m", "maskdpo_ray.check_objective", "python:no_such_module:loss"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: objective.name: can't import no_such_module of ")
        and done.stderr.count("\n") == 1
    )
