"""The Ray edge with fake actors on a real local Ray: streams, failures, policies on their way, shares of ranks."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fake_engine
import fakes
import numpy as np
import psutil
import pytest
import ray
import ray.cloudpickle
from running import MAX_IN_FLIGHT, MINE, SAVINGS, Running, config_for, started
from shared_ray import SharedRay

from actors import groups, weights
from actors.groups import AnnotationGroup, EvaluationGroup, RolloutGroup, TrainingGroup
from actors.rollout import request_seed
from maskdpo_ray import cluster as cluster_module
from maskdpo_ray.annotation import protocol
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config.schema import AnnotationConfig, SavingsConfig
from maskdpo_ray.data import questions
from maskdpo_ray.errors import ClusterError, DataError
from maskdpo_ray.records import Answered, Policy, Question, TrainingExample
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.training import batches as batching
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import ReferenceLogps, save

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as in running.py


@pytest.fixture(scope="class")
def running(tmp_path_factory: pytest.TempPathFactory, cluster_of_all: SharedRay) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("cluster"), cluster_of_all) as running:
        yield running


class TestRunningCluster:
    """One cluster for all: each test brings questions and policies of its own."""

    def test_answers_are_matched_bounded_and_spread(self, running: Running) -> None:
        running.groups.engines.load(running.initial)
        names = [f"q{index}" for index in range(20)]
        taken = 0

        def asked() -> Iterator[Question]:
            nonlocal taken
            for name in names:
                taken += 1
                yield fakes.question(name)

        since, given = running.count("engine"), []
        for item in running.groups.engines.stream(asked(), running.initial, fakes.sampling(3), "train"):
            given.append(item.question.id)
            assert taken - len(given) <= MAX_IN_FLIGHT
            seed = request_seed(3, "train", 0, item.question.id)
            assert item.rollouts == fakes.answers(item.question.id, 0, seed, 3)
            assert list(item.prompt_token_ids) == fakes.render(item.question)
        assert sorted(given) == sorted(names)
        notes = running.notes("engine", "generate", since)
        by_engine = [[n for n in notes if n["pid"] == pid] for pid in {n["pid"] for n in notes}]
        assert len(by_engine) == 2 and all(len(own) >= 5 for own in by_engine)
        assert max(note["running"] for note in notes) <= MAX_IN_FLIGHT // 2
        assert max(note["running"] for own in by_engine for note in own) >= 2  # and they do overlap

    def test_ranks_meet_while_engines_start(self, running: Running) -> None:
        """The engines of this cluster are ready only when ranks have met: it would not be there otherwise."""
        assert [note["rank"] for note in running.notes("rank", "setup")] in ([0, 1], [1, 0])

    def test_answers_do_not_depend_on_the_company(self, running: Running) -> None:
        """The same question alone gets the seed that it gets among others; another purpose gets another."""
        since = running.count("engine")
        for purpose in ("train", "train", "evaluate-heldout"):
            list(running.groups.engines.stream([fakes.question("q0")], running.initial, fakes.sampling(3), purpose))
        seeds = [note["seed"] for note in running.notes("engine", "generate", since)]
        assert seeds[0] == seeds[1] == request_seed(3, "train", 0, "q0") != seeds[2]

    def test_annotation_overlaps_rollout(self, running: Running) -> None:
        """Labels of the first questions are there while later ones are not yet asked."""
        asked = questions.load("builtin:countries")[:16]  # which the annotator, a real one, knows
        names = [question.id for question in asked]
        since = running.count("engine")
        answered = running.groups.engines.stream(asked, running.initial, fakes.sampling(3), "train")
        labelled = running.groups.annotators.stream(answered)
        first = next(labelled)
        assert len(running.notes("engine", "generate", since)) < len(names)
        rest = list(labelled)
        assert sorted(item.question.id for item in [first, *rest]) == sorted(names)
        for item in [first, *rest]:
            expected = [(rollout.question_id, rollout.sample) for rollout in item.rollouts]
            assert [(a.question_id, a.sample) for a in item.annotations] == expected
            for rollout, annotation in zip(item.rollouts, item.annotations, strict=True):
                assert annotation.sentences[-1].end == len(rollout.text)

    def test_labelled_answers_are_judged(self, running: Running) -> None:
        asked = questions.load("builtin:countries")[:4]
        answered = running.groups.engines.stream(asked, running.initial, fakes.sampling(3), "evaluate-heldout")
        judged = list(running.groups.evaluators.stream(running.groups.annotators.stream(answered)))
        assert sorted(item.question.id for item in judged) == sorted(question.id for question in asked)
        for item in judged:
            expected = [(rollout.question_id, rollout.sample) for rollout in item.rollouts]
            for labels in (item.annotations, item.judgements):
                assert [(each.question_id, each.sample) for each in labels] == expected

    def test_user_error_arrives_as_itself(self, running: Running) -> None:
        with pytest.raises(DataError, match="^bad/x: expected another question") as caught:
            running.answered(["f1", "bad/x"], running.initial)
        assert type(caught.value) is DataError
        assert "ray::" not in str(caught.value) and "Traceback" not in str(caught.value)

    def test_failures_leave_the_engines_usable(self, running: Running) -> None:
        names = [f"g{index}" for index in range(6)]
        assert running.answered(names, running.initial) == {name: [0, 0, 0] for name in names}

    def test_seen_policy_travels_as_a_path(self, running: Running) -> None:
        since = running.count("engine")
        running.groups.engines.load(running.policy(2))
        assert [note["received"] for note in running.notes("engine", "load", since)] == [None, None]

    def test_unseen_policy_travels_through_the_object_store(self, running: Running) -> None:
        policy = running.policy(3, "unseen-3")
        since = running.count("engine")
        running.groups.engines.load(policy)
        received = {note["pid"]: note["received"] for note in running.notes("engine", "load", since)}
        assert list(received.values()) == [policy.checksum] * 2

    def test_other_checksum_is_refused(self, running: Running) -> None:
        with pytest.raises(ClusterError, match=r"^rollout engine 0: expected policy 4 \w{12}, holds \(4, '0000"):
            running.groups.engines.load(running.policy(4, "swapped-4"))

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
    def test_reference_logps_come_in_order(self, running: Running, count: int) -> None:
        """Micro-batches of 2 over 2 ranks: uneven shares, an odd last one, a rank without any."""
        examples = stored(running, *(f"p{index}" for index in range(count)))
        since = running.count("rank")
        logps = list(running.groups.trainer.reference_logps(examples, running.initial))
        assert len(logps) == count
        for given, asked in zip(logps, examples, strict=True):
            for side, expected in zip(given, fakes.fake_logps(asked, running.initial.path), strict=True):
                np.testing.assert_array_equal(side, expected)
        sizes = {note["rank"]: note["sizes"] for note in running.notes("rank", "reference", since)}
        shares = ((count + 1) // 2, count // 2)
        assert sizes == {rank: [2] * (share // 2) + [1] * (share % 2) for rank, share in enumerate(shares)}

    def test_reference_logps_in_blocks(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        """Few pairs are in one call, whatever the number of all."""
        monkeypatch.setattr(groups, "_BLOCK_TOKENS", 1)
        examples = stored(running, "p0", "p1", "p2")
        since = running.count("rank")
        logps = list(running.groups.trainer.reference_logps(examples, running.initial))
        for given, asked in zip(logps, examples, strict=True):
            for side, expected in zip(given, fakes.fake_logps(asked, running.initial.path), strict=True):
                np.testing.assert_array_equal(side, expected)
        assert [sum(note["sizes"]) for note in running.notes("rank", "reference", since)].count(1) == 3

    def test_batches_are_shared_out(self, running: Running) -> None:
        """5 pairs in batches of 4: every step's pairs on exactly one rank, the last batch of an epoch is 1 pair."""
        examples = stored(running, *(f"s{index}" for index in range(5)))
        reference = reference_of(running, examples, "reference")
        since = running.count("rank")
        none = Checkpoints(running.tmp_path / "none", -1, {})
        metrics = list(running.groups.trainer.train(examples, reference, running.initial, 11, none, running.config))
        assert [metric["loss"] for metric in metrics] == [0.0] * 4  # rank 0's, which speaks for all
        for begin in running.notes("rank", "begin", since):
            assert (begin["path"], begin["total_steps"], begin["seed"]) == (running.initial.path, 4, 11)
        steps = {rank: [n for n in running.notes("rank", "step", since) if n["rank"] == rank] for rank in (0, 1)}
        batches = list(batching.epoch_batches(5, 4, 2, 11))
        assert [len(batch) for batch in batches] == [4, 1, 4, 1]
        for number, batch in enumerate(batches):
            shares = [sum(steps[rank][number]["ids"], []) for rank in (0, 1)]
            half = (len(batch) + 1) // 2
            assert shares == [[f"s{i}" for i in batch[:half]], [f"s{i}" for i in batch[half:]]]
            assert [steps[rank][number]["size"] for rank in (0, 1)] == [len(batch)] * 2

    def test_reference_in_every_step(self, running: Running) -> None:
        """Ranks are told of which policy, get no log-probs with the pairs, and come to the same weights."""
        examples, against = stored(running, *(f"e{index}" for index in range(5))), running.policy(1)
        reference = reference_of(running, examples, against.path)
        trained = []
        for given in (reference, against):
            since = running.count("rank")
            none = Checkpoints(running.tmp_path / "none", -1, {})
            list(running.groups.trainer.train(examples, given, running.initial, 11, none, running.config))
            told = {note["reference"] for note in running.notes("rank", "begin", since)}
            assert told == {against.path if given is against else None}
            trained.append(
                running.groups.trainer.publish(str(running.tmp_path / f"each-{len(trained)}"), 6)[0].checksum
            )
        assert trained[0] == trained[1]

    def test_savings_reach_the_ranks(self, running: Running) -> None:
        assert SavingsConfig() != SAVINGS
        assert [note["savings"] for note in running.notes("rank", "setup", 0)][:1] == [dataclasses.asdict(SAVINGS)]

    def test_published_policy_is_described(self, running: Running) -> None:
        folder, examples = running.tmp_path / "published", stored(running, "p")
        none = Checkpoints(running.tmp_path / "none", -1, {})
        reference = reference_of(running, examples, "reference")
        list(running.groups.trainer.train(examples, reference, running.initial, 11, none, running.config))
        since = running.count("rank")
        policy, found = running.groups.trainer.publish(str(folder), 5)
        assert policy == Policy(5, str(folder), weights.checksum(folder))
        assert found == {"published_logp_error": 0.0, "published_margin": 1.0}
        assert [note["path"] for note in running.notes("rank", "published", since)] == [str(folder)] * 2
        # Before it is loaded back, and after: the engines need the room.
        assert len(running.notes("rank", "release", since)) == 4

    def test_busy_seconds_of_each_group(self, running: Running) -> None:
        busy = running.groups.busy_seconds()
        assert busy.keys() == {"rollout", "annotation", "training", "evaluation"}
        assert busy["rollout"] == 1.0 and busy["training"] > 0 and busy["annotation"] > 0

    def test_groups_fulfil_the_protocols(self, running: Running) -> None:
        kinds = [type(running.groups.engines), type(running.groups.annotators), type(running.groups.trainer)]
        assert kinds == [RolloutGroup, AnnotationGroup, TrainingGroup]
        assert type(running.groups.evaluators) is EvaluationGroup


def example(pair_id: str) -> TrainingExample:
    """A pair with answers of 3 and 2 tokens."""
    return TrainingExample.of_pair(pair_id, (1, 2), (3, 4, 0), (5, 0), (1.0, 1.0, 1.0), (1.0, 1.0))


def stored(running: Running, *names: str) -> ExampleStore:
    return ExampleStore.write(Path(tempfile.mkdtemp(dir=running.tmp_path)), map(example, names))


def reference_of(running: Running, examples: ExampleStore, salt: str) -> ReferenceLogps:
    logps = (fakes.fake_logps(each, salt) for each in examples)
    return save(examples.path.with_name("logps"), examples, logps, "reference")


def test_a_question_always_comes_to_the_same_annotator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows what it said of it in earlier iterations; and each of the two has work."""
    (tmp_path / "mine_at_home.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    annotator = protocol.build("python:mine_at_home:Judge")
    config = config_for(tmp_path, AnnotationConfig(num_actors=2, max_in_flight=2))
    asked = [fakes.question(f"q{number}") for number in range(16)]
    answered = [Answered(question, (), fakes.answers(question.id, 0, 0, 2)) for question in asked]
    with Cluster(config) as cluster:
        group = cluster.start_annotators(annotator)
        first, second = (
            {item.question.id: {a.sentences[0].evidence for a in item.annotations} for item in group.stream(given)}
            for given in (answered, answered[::-1])
        )
    assert first == second
    assert len(set().union(*first.values())) == 2


def test_a_cluster_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster_of_all: SharedRay) -> None:
    """Without an address a run starts Ray itself, whatever there is on the machine, and takes all of it along.

    Its processes have the driver's priority. What does not fit is said at once, with the sum.
    """
    monkeypatch.delenv("RAY_ADDRESS")
    before = set(psutil.Process().children(recursive=True))
    config = config_for(tmp_path, cpus_per_engine=1000, cpus_per_rank=0.5)
    expected = r"^not enough CPUs: .* 2 x 1000 \(rollout engines\) \+ 2 x 0.5 \(training ranks\) = 2001;"
    with pytest.raises(ClusterError, match=expected), Cluster(config) as cluster:
        assert ray.get_runtime_context().gcs_address != cluster_of_all.address
        assert len(ray.nodes()) == 1
        cluster.start_annotators(protocol.build("facts"))
        started = set(psutil.Process().children(recursive=True)) - before
        actors = [each for each in started if " ".join(each.cmdline()).startswith("ray::AnnotationActor")]
        assert [actor.nice() for actor in actors] == [psutil.Process().nice()]
        cluster.start(Policy(0, "nowhere", ""), fakes.CharChat(), protocol.build("facts"))
    assert set(psutil.Process().children(recursive=True)) - before == set()
    assert cluster_of_all.actors_left() == []


class EndsBadly(fake_engine.FakeEngine):
    """One of two dies while closing, as when all processes get the signal; the other never finishes closing."""

    async def close(self) -> None:
        first = Path(self.log).with_name("first-to-close")
        if not first.exists():
            first.touch()
            os._exit(1)
        await asyncio.sleep(3600)


def test_a_stop_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray prints a line for each call that it is about to retry; the last calls are not retried."""
    monkeypatch.setattr(cluster_module, "_STOP_TIMEOUT_S", 2.0)
    engine = type("Engine", (EndsBadly,), {"log": str(tmp_path / "engine.jsonl")})
    initial = fakes.write_policy(tmp_path / "model", 0, b"initial")
    with pytest.raises(KeyboardInterrupt), Cluster(config_for(tmp_path), engine) as cluster:
        cluster.start_evaluation(initial, fakes.CharChat(), protocol.build("facts"), None)
        raise KeyboardInterrupt
    assert (tmp_path / "first-to-close").exists()
    assert "failed" not in "".join(capfd.readouterr())


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    config = config_for(tmp_path, address="127.0.0.1:1")
    expected = "^cluster.address: no Ray cluster at '127.0.0.1:1': "
    with pytest.raises(ClusterError, match=expected) as caught, Cluster(config):
        pytest.fail("entered")
    assert "\n" not in str(caught.value)
