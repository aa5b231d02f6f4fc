"""The trainer publishes what was trained, and stops where it is something else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors import groups
from actors.groups import TrainingGroup
from maskdpo_ray.config.schema import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import Policy, TrainingExample
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import save


def example(name: str) -> TrainingExample:
    return TrainingExample.of_pair(name, (1,), (2, 3), (4, 5, 6), (1.0, 0.5), (0.0, 1.0, 1.0))


def logps(chosen: list[float], rejected: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.float32(chosen), np.float32(rejected)


BEFORE = logps([-2, -2], [0, -2, -2])
TRAINED = logps([-1, -1], [0, -3, -3])  # margin: 1 + .5 + 2 = 3.5


class Ranks:
    """Two ranks whose published model is `published` and whose trained one is `TRAINED`."""

    deaths = 0

    def __init__(self, published: Any) -> None:
        self.published, self.calls = published, []

    def __len__(self) -> int:
        return 2

    def call(self, method: str, *arguments: Any) -> list[Any]:
        self.calls.append((method, arguments[-1] if arguments else None))
        if method == "save_policy":
            Path(arguments[0]).mkdir(parents=True)
            (Path(arguments[0]) / "model.safetensors").write_bytes(b"weights")
        of = {"published_logps": self.published, "reference_logps": TRAINED if arguments[-1:] == (None,) else BEFORE}
        if method in of:
            return [dict.fromkeys(arguments[1][rank::2], of[method]) for rank in range(2)]
        if method == "begin":
            return ["a line", None]
        return [{"loss": 0.5}, {"loss": 0.5}]


def group(tmp_path: Path, published: Any, reference: Any, save_steps: int = 0) -> tuple[TrainingGroup, Ranks]:
    """A group that has trained on three pairs."""
    config = Config(run=RunConfig(name="r", dir="runs"), model=ModelConfig("model"), data=DataConfig("questions.jsonl"))
    ranks, examples = Ranks(published), ExampleStore.write(tmp_path / "examples", map(example, "abc"))
    trainer = TrainingGroup(config, ranks)  # type: ignore[arg-type]
    policy = Policy(0, "before", "5f")
    checkpoints = Checkpoints(tmp_path / "checkpoints", save_steps, {})
    if isinstance(reference, list):
        reference = save(tmp_path / "logps", examples, reference, "5f")
    assert len(list(trainer.train(examples, reference, policy, 1, checkpoints, config))) == 3  # epochs
    return trainer, ranks


@pytest.mark.parametrize("reference", [[BEFORE] * 3, Policy(0, "before", "5f")], ids=["once", "each step"])
def test_a_policy_that_was_published_as_trained(tmp_path: Path, reference: Any) -> None:
    trainer, ranks = group(tmp_path, TRAINED, reference)
    policy, found = trainer.publish(str(tmp_path / "policy"), 1)
    assert policy.version == 1 and found == {"published_logp_error": 0.0, "published_margin": 1.0}
    methods = [method for method, _ in ranks.calls if method != "train_step"]
    # The engine is released before the published model is loaded: memory has room for one of them.
    assert methods[:5] == ["begin", "reference_logps", "save_policy", "release", "published_logps"]
    assert methods[-1] == "release"
    assert ranks.calls[0] == ("begin", True)  # policy and reference are the same


def test_a_policy_that_is_another_than_the_trained_one(tmp_path: Path) -> None:
    trainer, _ = group(tmp_path, logps([-1, -1], [0, -3, -5]), [BEFORE] * 3)
    line = "expected log-probs of the policy that was trained, within 0.3 nats a token, loaded back they differ by 0.5"
    with pytest.raises(ModelError) as stopped:
        trainer.publish(str(tmp_path / "policy"), 1)
    assert str(stopped.value) == f"{tmp_path / 'policy'}: {line}; no checkpoint yet"


def test_one_that_is_nan_stops(tmp_path: Path) -> None:
    trainer, _ = group(tmp_path, logps([math.nan, -1], [0, -3, -3]), [BEFORE] * 3)
    with pytest.raises(ModelError, match="they differ by nan"):
        trainer.publish(str(tmp_path / "policy"), 1)


def test_another_reference_is_no_known_loss(tmp_path: Path) -> None:
    _, ranks = group(tmp_path, TRAINED, Policy(0, "another", "60"))
    assert ranks.calls[0] == ("begin", False)


def test_published_pairs_are_as_many_as_there_are(tmp_path: Path) -> None:
    """A last step of one pair says little."""
    examples = [example(str(i)) for i in range(21)]
    config = Config(run=RunConfig(name="r", dir="runs"), model=ModelConfig("model"), data=DataConfig("questions.jsonl"))
    state = (Policy(0, "p", "5f"), 1, Checkpoints(tmp_path, 0, {}))
    training = groups._Training(
        examples, [BEFORE] * 21, *state, replace(config, train=TrainConfig(batch_size=20, max_epochs=2))
    )
    places = training.last_examples()
    assert len(set(places)) == len(places) == 16
    few = groups._Training(
        examples[:3], [BEFORE] * 3, *state, replace(config, train=TrainConfig(batch_size=2, max_epochs=2))
    )
    assert sorted(few.last_examples()) == [0, 1, 2]


def test_what_a_rank_says_of_the_model_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, _ = group(tmp_path, TRAINED, [BEFORE] * 3)
    training = trainer._training
    assert training is not None
    trainer._begin(training)
    assert capsys.readouterr().err.count("a line") == 1
