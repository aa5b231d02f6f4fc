"""Evaluation uses the sampling options of `eval` if set; when greedy, each question has one answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from fake_run import config_for
from fakes import Events

from actors.groups import sampling_of
from actors.rollout import Sampling
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import Config, EvalConfig, ModelConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.stages.evaluate import EvaluateStage
from maskdpo_ray.stages.preflight import describe
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

AS_ROLLOUT = Sampling(4, 0.8, 40, 1.0, 1024)


def config_of(**options: object) -> Config:
    return Config(model=ModelConfig("m"), eval=EvalConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, AS_ROLLOUT),
        ({"top_k": 1}, replace(AS_ROLLOUT, top_k=1)),
        ({"temperature": 0}, replace(AS_ROLLOUT, temperature=0)),
        ({"temperature": 1.0, "top_k": -1, "top_p": 0.9}, Sampling(4, 1.0, -1, 0.9, 1024)),
    ],
)
def test_only_evaluation_follows_its_own_options(options: dict[str, float], expected: Sampling) -> None:
    config = config_of(**options)
    assert sampling_of(config, 4, "evaluate-heldout") == sampling_of(config, 4, "evaluate-transfer") == expected
    assert sampling_of(config, 4, "train") == sampling_of(config, 4, "ahead") == AS_ROLLOUT


@pytest.mark.parametrize(
    ("options", "replications"),
    [({}, 5), ({"top_k": 1}, 1), ({"temperature": 0}, 1), ({"top_k": 2, "temperature": 0.1}, 5)],
)
def test_greedy_answers_are_made_once(options: dict[str, float], replications: int, tmp_path: Path) -> None:
    config = config_of(**options)
    assert config.eval.replications == replications
    said = describe(Plan(config), 3, {"heldout": 2}, tmp_path)
    assert f"heldout 2 questions x {replications} {'greedy ' * (replications == 1)}answers" in said


def test_a_greedy_stage(tmp_path: Path) -> None:
    config = replace(config_for(tmp_path), eval=EvalConfig(top_k=1, bootstrap_samples=100))
    policy, events = fakes.write_policy(tmp_path / "model", 0, b"initial"), Events()
    groups, asked = fakes.groups(config, events), [fakes.question("h1"), fakes.question("h2")]
    with RunFolder.open(tmp_path / "run", {}) as folder, Tracker(tmp_path / "run", config.logger, {}) as tracker:
        folder.begin(policy, {"heldout": asked})
        groups.engines.load(policy)
        EvaluateStage(config, groups, folder, tracker, Watch(config, {})).run(policy, {"heldout": asked})
        answers = list(folder.evaluated(0, "heldout").answers())
    assert sorted((rollout.question_id, rollout.sample) for rollout, _ in answers) == [("h1", 0), ("h2", 0)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": -0.1}, "eval.temperature: expected at least 0 (greedy), got -0.1"),
        ({"top_k": 0}, "eval.top_k: expected 1 to 2^31-1, or -1 (all), got 0"),
        ({"top_p": 0}, "eval.top_p: expected above 0, at most 1, got 0"),
    ],
)
def test_bad_options(options: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(**options)
    assert str(caught.value) == expected
