"""`sft.iterations`: the first iterations fine-tune on answers; all else of the loop is as in the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
from fake_run import ITERATIONS, ORDINARY, committed, log_name, metrics_of, results, run
from fakes import Events, Stopped

from actors import weights
from maskdpo_ray.config.schema import Config, MaskConfig, SftConfig
from maskdpo_ray.records import CHOSEN, LABELS, REJECTED, TrainingExample
from maskdpo_ray.stages.protocols import ActorGroups
from maskdpo_ray.training.example_store import ExampleStore

pytestmark = pytest.mark.usefixtures("no_fsync")
HALF = {CHOSEN: dict.fromkeys(LABELS, 0.5), REJECTED: dict.fromkeys(LABELS, 1.0)}
SFT = {"sft": SftConfig(iterations=1, max_epochs=1, lr=3e-5)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> tuple[Path, Events]:
    """A run that nothing stopped, of an SFT iteration and a preference iteration."""
    path = tmp_path_factory.mktemp("whole")
    return path, run(path, sections=SFT)


class Watched(fakes.FakeTrainer):
    """Keeps what it is given to train on."""

    given: list[tuple[Config, list[TrainingExample], Any]]

    def train(self, examples: ExampleStore, reference: Any, *rest: Any) -> Iterator[dict[str, float]]:
        self.given.append((rest[-1], list(examples), reference))
        return super().train(examples, reference, *rest)


def watched(path: Path, sft: SftConfig, **options: Any) -> tuple[Events, list[tuple[Config, list[Any], Any]]]:
    trainers: list[Watched] = []

    def groups_of(config: Config, events: Events, shuffle: int | None) -> ActorGroups:
        trainer = Watched(config, events)
        trainer.given = []
        trainers.append(trainer)
        return replace(fakes.groups(config, events, shuffle), trainer=trainer)

    events = run(path, sections={"sft": sft, "mask": MaskConfig(HALF)}, groups_of=groups_of, **options)
    return events, trainers[0].given


@pytest.mark.parametrize("masked", [False, True])
def test_trains_on_chosen_answers_without_a_reference(tmp_path: Path, masked: bool) -> None:
    """SFT learns from all tokens unless masked; the iteration after it is an ordinary one."""
    events, given = watched(tmp_path, replace(SFT["sft"], masked=masked))
    assert [event[1] for event in events.of("reference")] == [1]
    (config, examples, reference), (later, pairs, _) = given
    assert (config.objective.name, config.adam.lr, config.train.max_epochs) == ("sft", 3e-5, 1)
    assert reference is None
    assert [example.id for example in examples] == [f"{name}#0" for name in ORDINARY]
    assert all([response.role for response in example.responses] == [CHOSEN] for example in examples)
    weighed = [response.weights for example in examples for response in example.responses]
    assert {weight for each in weighed for weight in each} == ({0.5} if masked else {1.0})
    assert (later.objective.name, later.adam.lr, later.train.max_epochs) == ("dpo", Config.at(later, 1).adam.lr, 2)
    assert all([response.role for response in example.responses] == [CHOSEN, REJECTED] for example in pairs)


def test_steps_count_on_over_both(whole: tuple[Path, Events]) -> None:
    """Three steps of one epoch of SFT, then two epochs of three."""
    steps = [entry["step"] for entry in metrics_of(whole[0]) if "train/loss" in entry]
    assert steps == list(range(3 + 6))
    tokens = [entry["tokens/train"] for entry in metrics_of(whole[0]) if "tokens/train" in entry]
    assert len(tokens) == ITERATIONS and all(count > 0 for count in tokens)
    assert not (whole[0] / "run/iter_000/reference-logps.safetensors").exists()


@pytest.mark.parametrize("which", ["initial", "previous"])
def test_initial_reference_is_the_policy_after_sft(tmp_path: Path, which: str) -> None:
    events = run(tmp_path, sections=SFT, which=which, iterations=3)
    assert [event[1] for event in events.of("reference")] == ([1, 1] if which == "initial" else [1, 2])
    ledger = [json.loads(line) for line in (tmp_path / "run/ledger.jsonl").read_text().splitlines()]
    policies = [entry["facts"]["policy"] for entry in ledger if entry["stage"] == "reference" and "finished" in entry]
    sft = weights.checksum(tmp_path / "run/iter_000/policy")
    assert [policy["checksum"] == sft for policy in policies] == [True, which == "initial"]


def test_all_iterations_may_be_sft(tmp_path: Path) -> None:
    events = run(tmp_path, sections={"sft": SftConfig(iterations=2)})
    assert not events.of("reference") and [event[1] for event in events.of("publish")] == [1, 2]


def test_a_stopped_run_ends_as_one_that_nothing_stopped(whole: tuple[Path, Events], tmp_path: Path) -> None:
    """Before every fifth event of the SFT iteration, and before its policy is published and loaded."""
    expected, events = whole
    end = events.index(("load", 1))
    for stop_at in sorted({*range(1, end, 5), end - 3, end - 2, end - 1, end, end + 1}):
        path = tmp_path / str(stop_at)
        with pytest.raises(Stopped):
            run(path, Events(stop_at), shuffle=stop_at, sections=SFT)
        kept = committed(path)
        resumed = run(path, shuffle=stop_at + 1, sections=SFT)
        assert not {(log_name(purpose, version), name) for _, purpose, version, name in resumed.of("answer")} & kept
        assert results(path) == results(expected)
