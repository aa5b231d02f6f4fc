"""Evaluation uses the sampling options of `eval` if set; when greedy, each question has one answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from fake_run import config_for
from fakes import Events

from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import Config, EvalConfig, ModelConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import Sampling
from maskdpo_ray.stages.evaluate import EvaluateStage, is_finished, sampled_as
from maskdpo_ray.stages.preflight import describe
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store import files
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

AS_ROLLOUT = Sampling(5, 0.8, 40, 1.0, 1024)


def config_of(**options: object) -> Config:
    return Config(model=ModelConfig("m"), eval=EvalConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, AS_ROLLOUT),
        ({"top_k": 1}, replace(AS_ROLLOUT, n=1, top_k=1)),
        ({"temperature": 0}, replace(AS_ROLLOUT, n=1, temperature=0)),
        ({"temperature": 1.0, "top_k": -1, "top_p": 0.9}, Sampling(5, 1.0, -1, 0.9, 1024)),
    ],
)
def test_only_evaluation_follows_its_own_options(options: dict[str, float], expected: Sampling) -> None:
    config = config_of(**options)
    assert config.eval_sampling == expected
    assert config.rollout.sampling == replace(AS_ROLLOUT, n=32)


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
        (
            {"greedy": True, "top_k": 1},
            "eval.greedy: expected false where eval.temperature or eval.top_k makes all answers greedy, got True",
        ),
        ({"top_p": 0}, "eval.top_p: expected above 0, at most 1, got 0"),
    ],
)
def test_bad_options(options: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(**options)
    assert str(caught.value) == expected


def test_one_greedy_answer_beside_the_sampled_ones(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    config = replace(config, eval=replace(config.eval, greedy=True))
    asked = {"heldout": [fakes.question("h1"), fakes.question("h2")], "dev": [fakes.question("d1")]}
    sampled = config.eval_sampling
    assert sampled_as(config, asked) == {
        "heldout": ("heldout", sampled),
        "dev": ("dev", sampled),
        "heldout-greedy": ("heldout", replace(sampled, n=1, temperature=0.0)),
    }
    policy, events = fakes.write_policy(tmp_path / "model", 0, b"initial"), Events()
    groups = fakes.groups(config, events)
    with RunFolder.open(tmp_path / "run", {}) as folder, Tracker(tmp_path / "run", config.logger, {}) as tracker:
        folder.begin(policy, asked)
        groups.engines.load(policy)
        stage = EvaluateStage(config, groups, folder, tracker, Watch(config, {}))
        stage.run(policy, asked)
        assert is_finished(config, folder, asked, 0)
        num_answers = {name: len(list(folder.evaluated(0, name).answers())) for name in ("heldout", "heldout-greedy")}
        stage.run(policy, asked)  # nothing is answered again
    assert num_answers == {"heldout": 4, "heldout-greedy": 2}
    assert len(events.of("answer")) == 2 + 1 + 2
    found = files.read_json(tmp_path / "run/eval_000/heldout-greedy.json", Evaluation)
    assert (found.replications, found.metrics["score"].sd) == (1, None)


def test_the_sampled_figures_are_the_same_with_and_without_greedy_ones(tmp_path: Path) -> None:
    found = []
    for greedy in (False, True):
        path = tmp_path / str(greedy)
        path.mkdir()
        config = replace(
            config_for(path), eval=EvalConfig(n_samples_per_prompt=2, bootstrap_samples=100, greedy=greedy)
        )
        policy = fakes.write_policy(path / "model", 0, b"initial")
        groups, asked = fakes.groups(config, Events()), {"heldout": [fakes.question("h1")]}
        with RunFolder.open(path / "run", {}) as folder, Tracker(path / "run", config.logger, {}) as tracker:
            folder.begin(policy, asked)
            groups.engines.load(policy)
            EvaluateStage(config, groups, folder, tracker, Watch(config, {})).run(policy, asked)
        found.append((path / "run/eval_000/heldout.json").read_bytes())
    assert found[0] == found[1]
