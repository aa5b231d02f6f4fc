"""Every recipe for one tiny iteration, through real engines and ranks: it ends well, makes its pairs, and learns.

The policy is `scripted_policy`, whose answers are right and wrong in turn, so that each recipe finds what it looks for.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import scripted_policy
import torch
from driver import REPOSITORY, Driver
from finished_run import Run, arguments, finish
from safetensors.torch import load_file

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config, SftConfig
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION

pytestmark = pytest.mark.timeout(600)
FOLDER = REPOSITORY / "configs" / "recipes"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
EVERY_COMMIT = ("apeft_dpo_atoms", "sentence_kto")
"""Recipes of the default tier: between them they take the most parts. The others run nightly."""
NUM_QUESTIONS = 4
SMALL = {
    "run.keep": "last",
    "data.num_dev_topics": 0,
    "data.max_questions": None,
    "data.transfer": None,
    "data.num_transfer_topics": None,
    "rollout.n_samples_per_prompt": 4,
    "rollout.max_new_tokens": 64,
    "vllm.max_model_len": 512,
    "vllm.cpu_kv_cache_gib": 1,
    "annotation.options": None,
    "train.batch_size": 4,
    "adam.lr": 1e-3,
    "eval.n_samples_per_prompt": 1,
    "eval.evaluator": None,
    "eval.options": None,
    "eval.bootstrap_samples": 100,
}
"""Options that make the quickstart's world as small as the policy."""


@dataclass(frozen=True)
class World:
    """A model, another one of the same kind, and questions about what it talks of."""

    model: Path
    other: Path
    train: Path
    held_out: Path

    def options(self, recipe: Config) -> dict[str, Any]:
        """The options that give a recipe its world."""
        given: dict[str, Any] = {
            **SMALL,
            "model.model_name_or_path": self.model,
            "data.train": self.train,
            "data.eval": self.held_out,
            "run.iterations": recipe.sft.iterations + 1,
        }
        if recipe.annotation.annotator != "short_answer":  # which is at home here
            given["annotation.annotator"] = "python:scripted_policy:TruthAnnotator"
        if recipe.rollout.model is not None:
            given["rollout.model"] = self.other
        if recipe.mask.oracle is not None:
            given["mask.oracle"] = self.other
        return given


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process of a run import the annotator."""
    paths = (str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture(scope="session")
def world(runs_dir: Path) -> World:
    folder = runs_dir / "recipes"
    folder.mkdir()
    questions = [question(f"q{number}", scripted_policy.TOPIC) for number in range(NUM_QUESTIONS)]
    write(folder / "train.jsonl", questions)
    write(folder / "held-out.jsonl", [question("held-out", "Chad")])
    models = (scripted_policy.write(folder / name, seed=seed) for seed, name in enumerate(("model", "other")))
    return World(*models, folder / "train.jsonl", folder / "held-out.jsonl")


def question(name: str, topic: str) -> dict[str, str]:
    return {
        "id": name,
        "topic": topic,
        "prompt": f"What is {topic} like? ({name})",
        "document": f"{topic} is {scripted_policy.RIGHT}.",
        "answer": scripted_policy.RIGHT,
    }


def write(file: Path, questions: list[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(each)}\n" for each in questions), encoding="utf-8")


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([part.flatten() for _, part in sorted(load_file(folder / "model.safetensors").items())])


def run_of(name: str, recipe: Config, world: World, runs_dir: Path) -> Run:
    """One iteration of a recipe, behind its SFT iterations."""
    options = world.options(recipe)
    given = {key.replace(".", "__"): "null" if value is None else value for key, value in options.items()}
    folder = runs_dir / name
    with Driver(arguments(folder, FOLDER / f"{name}.yaml", **given), folder.with_suffix(".log")) as driver:
        return finish(driver, folder)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY_COMMIT else pytest.mark.nightly) for name in NAMES]
)
def test_a_recipe_learns(name: str, world: World, runs_dir: Path, importable: None) -> None:
    recipe = cli.read(FOLDER / f"{name}.yaml")
    run = run_of(name, recipe, world, runs_dir)
    assert run.code == 0 and run.left == [] and "Traceback" not in run.output, run.output
    before = world.model
    for iteration in range(recipe.sft.iterations + 1):
        summary = run.read(f"iter_{iteration:03d}/pairs-summary.json")
        assert summary["pairs"] > 0
        right, wrong = (summary["labels"].get(label, 0) for label in (NO_HALLUCINATION, CONTRADICTORY))
        assert right and wrong and f"iteration {iteration}: sentences: " in run.output
        after = run.folder / f"iter_{iteration:03d}" / "policy"
        assert not torch.equal(weights(before), weights(after))
        before = after
    if recipe.atoms.n_samples_per_prompt:
        assert summary["atoms"]["potentially_known"] > 0 and summary["sources"]["atoms"] > 0
        assert "atomic questions: " in run.output
    if recipe.rollout.chosen_answers == "document":
        roles = {rollout["role"] for rollout in run.parts("iter_000/", "rollouts")}
        assert roles == {"chosen", "rejected"}


STOPPED = "apeft_dpo_atoms"
STOPS = ("iter_000/checkpoint/*/marker.json", "iter_001/atoms-questions.jsonl")
"""Files whose first bytes tell that SFT, or atomic questions, are under way."""


@pytest.mark.nightly
def test_killed_in_sft_and_among_atomic_questions_it_ends_to_the_byte_as_undisturbed(
    world: World, runs_dir: Path, importable: None
) -> None:
    recipe = replace(cli.read(FOLDER / f"{STOPPED}.yaml"), sft=SftConfig(iterations=1))
    given = {
        **{key: "null" if value is None else value for key, value in world.options(recipe).items()},
        "run.iterations": 2,
        "sft.iterations": 1,
        "train.batch_size": 1,  # several steps of SFT from few answers
        "train.save_steps": 1,
        "rollout.max_in_flight": 1,
    }
    options = {key.replace(".", "__"): value for key, value in given.items()}
    undisturbed, killed = (runs_dir / f"{STOPPED}-{how}" for how in ("undisturbed", "killed"))
    config = FOLDER / f"{STOPPED}.yaml"
    with Driver(arguments(undisturbed, config, **options), undisturbed.with_suffix(".log")) as driver:
        expected = finish(driver, undisturbed)
    assert expected.code == 0, expected.output
    for number, sign in enumerate((*STOPS, None)):
        log = killed.with_name(f"{killed.name}-{number}.log")
        with Driver(arguments(killed, config, **options), log) as driver:
            if sign is None:
                found = finish(driver, killed)
            else:
                wait_for(driver, killed, sign)
                driver.process.kill()
                assert not (killed / Path(sign).parts[0] / "policy").exists(), f"too late for {sign}"
    assert found.code == 0, found.output
    names = {str(file.relative_to(undisturbed)) for file in undisturbed.glob("*_*/*questions.jsonl")}
    assert len(names) >= 5
    for name in names:
        assert sorted((killed / name).read_bytes().splitlines()) == sorted(
            (undisturbed / name).read_bytes().splitlines()
        )
    for name in ("iter_000/policy/model.safetensors", "iter_001/policy/model.safetensors"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()


def wait_for(driver: Driver, folder: Path, sign: str) -> None:
    """Wait until a file of this pattern holds anything; fails when the run ends before."""
    while not any(file.stat().st_size for file in folder.glob(sign)):
        assert driver.process.poll() is None, driver.output
        time.sleep(0.01)
