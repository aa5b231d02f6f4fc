"""Refusals of `evaluate` before it begins: too little room, and a cluster that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import Case, refuses

from maskdpo_ray import evaluate

GIVEN = "rollouts.jsonl --questions questions.jsonl --config config.yaml"
CASES: dict[str, Case] = {
    "more CPUs than there are, for engines": (
        None,
        "--config config.yaml --cluster.cpus_per_engine 5000",
        "not enough CPUs: expected at most ...",
    ),
    "more CPUs than there are, for those that label": (
        None,
        f"{GIVEN} --cluster.cpus_per_annotator 5000",
        "not enough CPUs: expected at most ...",
    ),
    "nobody at the address": (
        None,
        f"{GIVEN} --cluster.address 127.0.0.1:1",
        "--cluster.address: no Ray cluster at '127.0.0.1:1': [Errno 111] Connection refused",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(labelled_folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    refuses(evaluate.main, CASES[name], labelled_folder, capfd)


def test_no_room_is_asked_for_actors_that_do_not_start(
    labelled_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([*GIVEN.split(), "--cluster.cpus_per_engine", "5000", "--cluster.cpus_per_rank", "5000", "--dry_run"])
    assert "evaluated: heldout 3 questions x 2 answers" in capfd.readouterr().out
