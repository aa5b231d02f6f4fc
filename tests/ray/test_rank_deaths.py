"""Training ranks that die, on a real local Ray: new ones take their place, and nothing else changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_rank
import fakes
import numpy as np
import pytest
import ray.cloudpickle
from shared_ray import SharedRay

from actors.groups import TrainingGroup
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config.schema import ClusterConfig, Config, ModelConfig, RunConfig, TrainConfig
from maskdpo_ray.errors import ClusterError, NotFiniteError
from maskdpo_ray.records import Policy, TrainingExample
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.training import batches
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import save

# Worker processes don't have tests/ on their path: the fakes travel to them by value.
for module in (fakes, fake_rank):
    ray.cloudpickle.register_pickle_by_value(module)

ORDINARY = tuple(f"p{index}" for index in range(4))
SEED = next(seed for seed in range(100) if set(list(batches.epoch_batches(6, 4, 2, seed))[1]) == {0, 1})
"""Seed by which, of six pairs in batches of 4, the first two are the second step; each is on a rank of its own."""


def example(pair_id: str) -> TrainingExample:
    """A pair with answers of 3 and 2 tokens."""
    return TrainingExample.of_pair(pair_id, (1, 2), (3, 4, 0), (5, 0), (1.0, 1.0, 1.0), (1.0, 1.0))


@dataclass
class Running:
    """Two ranks and what they wrote down."""

    trainer: TrainingGroup
    config: Config
    initial: Policy
    tmp_path: Path

    def notes(self, *events: str, since: int = 0) -> list[dict[str, Any]]:
        return [note for note in map(json.loads, self._lines()[since:]) if note["event"] in events]

    def count(self) -> int:
        return len(self._lines())

    def _lines(self) -> list[str]:
        return (self.tmp_path / "rank.jsonl").read_text().splitlines()

    def trained(self, names: tuple[str, ...], folder: str, every: int = 1, seed: int = SEED) -> tuple[int, Policy]:
        """(number of metrics given, new policy) of a training with a checkpoint every so many steps."""
        examples = ExampleStore.write(self.tmp_path / f"{folder}-examples", map(example, names))
        # Those of the pair at this place, whatever its name: trainings that differ in deaths only give equal policies.
        logps = (fakes.fake_logps(example(str(index)), "reference") for index in range(len(names)))
        reference = save(self.tmp_path / f"{folder}-logps", examples, logps, "reference")
        checkpoints = Checkpoints(self.tmp_path / f"{folder}-checkpoint", every, {})
        metrics = list(self.trainer.train(examples, reference, self.initial, seed, checkpoints, self.config))
        return len(metrics), self.trainer.publish(str(self.tmp_path / folder), 1)[0]


@pytest.fixture(scope="class")
def running(tmp_path_factory: pytest.TempPathFactory, cluster_of_all: SharedRay) -> Iterator[Running]:
    """After the tests no process is left: none of a rank that died, its survivors and those that came for them."""
    tmp_path = tmp_path_factory.mktemp("deaths")
    config = Config(
        run=RunConfig(dir=str(tmp_path)),
        model=ModelConfig(model_name_or_path=str(tmp_path / "model")),
        train=TrainConfig(num_ranks=2, max_epochs=2, batch_size=4, micro_batch_size=2),
        cluster=ClusterConfig(cpus_per_rank=0.1, start_timeout_s=120, step_timeout_s=60),
    )
    initial = fakes.write_policy(tmp_path / "model", 0, b"initial")
    rank = type("Rank", (fake_rank.FakeRank,), {"log": str(tmp_path / "rank.jsonl")})
    (tmp_path / "die-in-setup").touch()
    with Cluster(config, rank=rank) as cluster:
        yield Running(cluster.start_trainer(), config, initial, tmp_path)
    assert cluster_of_all.actors_left() == []


class TestDeaths:
    """One cluster for all; the ranks that a test leaves are the next one's."""

    def test_while_the_group_joins(self, running: Running) -> None:
        """The run starts all the same, with new ranks."""
        assert (running.tmp_path / "died-of-setup").exists()
        joined = running.notes("setup")
        assert [note["rank"] for note in joined][-2:] in ([0, 1], [1, 0])
        assert joined[-1]["address"] == joined[-2]["address"]

    @pytest.mark.parametrize("survivor", ["wait", "broken"])
    @pytest.mark.parametrize(("every", "resumed"), [(1, 1), (-1, 0)])
    def test_in_a_step(self, running: Running, capfd: Any, survivor: str, every: int, resumed: int) -> None:
        """The survivor, which hangs or complains, is not waited for; the policy is that of an untroubled training."""
        name = f"{survivor}-{every}"
        plain = running.trained(("q", "r", *ORDINARY), f"plain-{name}")
        since, start = running.count(), time.monotonic()
        given, policy = running.trained((f"die/{name}", f"{survivor}/{name}", *ORDINARY), f"policy-{name}", every)
        assert time.monotonic() - start < 40
        assert (given, policy.checksum) == (plain[0], plain[1].checksum) == (4, plain[1].checksum)
        assert len(running.notes("setup", since=since)) == 2
        loaded = [Path(note["folder"]).name for note in running.notes("load_checkpoint", since=since)]
        assert loaded == ["step-1"] * 2 * resumed
        steps = [note for note in running.notes("step", since=since) if note["rank"] == 0]
        assert len(steps) == 2 + 4 - resumed
        said = [line for line in capfd.readouterr().err.splitlines() if "died" in line]
        assert len(said) == 1 and said[0].startswith("training rank ")
        assert said[0].endswith(f"; the group starts again after step {resumed}")

    def test_in_the_reference_logps(self, running: Running, capfd: Any) -> None:
        names = ("die-reference/r", "a", "wait/r", "b")
        examples = ExampleStore.write(running.tmp_path / "reference", map(example, names))
        logps = list(running.trainer.reference_logps(examples, running.initial))
        for given, asked in zip(logps, examples, strict=True):
            for side, expected in zip(given, fakes.fake_logps(asked, running.initial.path), strict=True):
                np.testing.assert_array_equal(side, expected)
        assert "the group starts again with the reference log-probs" in capfd.readouterr().err

    def test_while_the_policy_is_saved(self, running: Running) -> None:
        """State that the ranks held is lost: the steps after the last checkpoint are done again."""
        _, plain = running.trained(ORDINARY, "plain-save", every=-1)
        since = running.count()
        _, policy = running.trained(ORDINARY, "die-save", every=-1)
        assert policy.checksum == plain.checksum
        assert [note["rank"] for note in running.notes("step", since=since)].count(0) == 2 * 2
        since, one = running.count(), ExampleStore.write(running.tmp_path / "one", [example("a")])
        list(running.trainer.reference_logps(one, running.initial))
        assert running.notes("setup", since=since) == []  # those that came stay

    def test_again_and_again(self, running: Running, capfd: Any) -> None:
        """Three times new ranks come; then it is no accident, and one line says what may help."""
        expected = (
            r"^training rank [01] died: .*; death 4 in this iteration; if memory is short: "
            r"lower train.micro_batch_size \(2\) or set model.gradient_checkpointing_enable and resume; in a new run "
            r"lower rollout.max_new_tokens \(1024\) or set ds.zero_stage 3 or raise train.num_ranks \(2\)$"
        )
        with pytest.raises(ClusterError, match=expected) as caught:
            running.trained(("die-always/x", *ORDINARY), "never")
        assert "\n" not in str(caught.value)
        assert capfd.readouterr().err.count("the group starts again after step") == 3


class TestErrors:
    """Errors that starting again would not mend end the training at once."""

    def test_a_loss_that_is_not_finite(self, running: Running) -> None:
        """Named with its step and pairs; the checkpoint before it stays."""
        names = ("bad/p", "q", *ORDINARY)
        expected = (
            r"^step 2 of 4: expected a finite loss, got nan; its examples: (bad/p, q|q, bad/p); "
            r"the checkpoint of step 1 is kept$"
        )
        with pytest.raises(NotFiniteError, match=expected):
            running.trained(names, "not-finite")
        assert Checkpoints(running.tmp_path / "not-finite-checkpoint", 1, {}).step == 1
        with pytest.raises(NotFiniteError, match=r"no checkpoint yet$"):
            running.trained(names, "not-finite-2", every=-1)

    def test_out_of_memory(self, running: Running) -> None:
        expected = (
            r"^training rank [01]: MemoryError: tried to allocate 2.00 GiB; lower train.micro_batch_size \(2\) or set "
        )
        with pytest.raises(ClusterError, match=expected) as caught:
            running.trained(("oom/p", *ORDINARY), "oom")
        assert "\n" not in str(caught.value)

    def test_other_failures_name_the_rank(self, running: Running) -> None:
        with pytest.raises(ClusterError, match="^training rank [01]: RuntimeError: Connection closed by peer$"):
            running.trained(("broken/alone", *ORDINARY), "alone")
