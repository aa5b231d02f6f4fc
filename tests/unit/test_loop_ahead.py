"""`rollout.ahead`: the next iteration's questions are answered while the policy that answers them is trained."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
from fake_run import DROPPED, ORDINARY, committed, log_name, metrics_of, pairs_of, results, run
from fakes import Events, Stopped

from maskdpo_ray.config.schema import Config
from maskdpo_ray.records import Answered, Failed, Question
from maskdpo_ray.stages.protocols import ActorGroups
from maskdpo_ray.store.question_log import log_path

pytestmark = pytest.mark.usefixtures("no_fsync")

ITERATIONS = 3
WAIT_S = 30.0


def run_ahead(path: Path, events: Events | None = None, **options: Any) -> Events:
    return run(path, events, ahead=1, iterations=ITERATIONS, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> tuple[Path, Events]:
    """A run that nothing stopped."""
    path = tmp_path_factory.mktemp("whole")
    return path, run_ahead(path)


def test_pairs_are_of_the_policy_before(whole: tuple[Path, Events]) -> None:
    for iteration in range(ITERATIONS):
        purpose, version = ("train", 0) if iteration == 0 else ("ahead", iteration - 1)
        pairs = pairs_of(whole[0], iteration)
        assert sorted(pair["question_id"] for pair in pairs) == list(ORDINARY)
        for pair in pairs:
            answered = fakes.answers(pair["question_id"], version, f"1/{purpose}", 4)
            rollout = pair["chosen"]["rollout"]
            assert rollout["text"] == answered[rollout["sample"]].text
            assert rollout["policy_version"] == pair["policy_version"] == version


def test_every_question_once_and_each_policy_loaded_once(whole: tuple[Path, Events]) -> None:
    events = whole[1]
    asked = [event[1:] for event in events.of("answer") if not event[1].startswith("evaluate")]
    versions = [("train", 0), ("ahead", 0), ("ahead", 1)]  # none for an iteration that doesn't come
    assert sorted(asked) == sorted((*version, name) for version in versions for name in ORDINARY + DROPPED)
    assert [event[1] for event in events.of("load")] == [0, 1, 2, 3]
    # All answered before the next policy is loaded: the fake engines have one policy only.
    for version in (0, 1):
        last = max(number for number, event in enumerate(events) if event[:3] == ("answer", "ahead", version))
        assert last < events.index(("load", version + 1))


def test_every_policy_is_trained_from_the_newest(whole: tuple[Path, Events]) -> None:
    assert [event[1] for event in whole[1].of("begin")] == [0, 1, 2]
    steps = [entry["step"] for entry in metrics_of(whole[0]) if "train/loss" in entry]
    assert steps == list(range(len(steps)))


def test_the_first_iteration_is_the_ordinary_one(whole: tuple[Path, Events], tmp_path: Path) -> None:
    run(tmp_path, iterations=1)
    ordinary, ahead = results(tmp_path), results(whole[0])
    assert "iter_000/policy/model.safetensors" in ordinary
    for name in ordinary:
        if name.startswith("iter_000/") and not name.endswith("README.md"):  # the policy's card names the option
            assert ordinary[name] == ahead[name], name


class Held(fakes.FakeEngines):
    """Answers ahead only once the ranks train."""

    def __init__(self, seed: int, events: Events, is_training: threading.Event) -> None:
        super().__init__(seed, events)
        self._is_training = is_training
        self.answered = threading.Event()

    def stream(
        self, questions: Sequence[Question], policy: Any, sampling: Any, purpose: str
    ) -> Iterator[Answered | Failed]:
        for item in super().stream(questions, policy, sampling, purpose):
            if purpose == "ahead":
                assert self._is_training.wait(WAIT_S)
            yield item
            if purpose == "ahead":
                self.answered.set()


def test_engines_and_ranks_work_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the other; and what is answered is committed before training ends."""
    is_training, seen = threading.Event(), []

    def groups_of(config: Config, events: Events, shuffle: int | None) -> ActorGroups:
        engines = Held(config.run.seed, events, is_training)

        class Trainer(fakes.FakeTrainer):
            def train(self, *arguments: Any) -> Iterator[dict[str, float]]:
                for metrics in super().train(*arguments):
                    is_training.set()
                    assert engines.answered.wait(WAIT_S)
                    seen.append((log_path(1), "a") in committed(tmp_path))
                    yield metrics

        return replace(fakes.groups(config, events, shuffle), engines=engines, trainer=Trainer(config, events))

    run(tmp_path, iterations=2, ahead=1, groups_of=groups_of)
    first = seen[:6]  # the steps of the first iteration
    assert not first[0] and first[-1]


# Of the events' order only the parts that one thread makes are the same in every run.
@pytest.mark.parametrize("stop_at", [*range(3, 102, 7)])
def test_goes_on_after_a_stop(whole: tuple[Path, Events], tmp_path: Path, stop_at: int) -> None:
    """In whichever thread it comes: the same files in the end, and nothing asked that is committed."""
    with pytest.raises(Stopped):
        run_ahead(tmp_path, Events(stop_at), shuffle=stop_at)
    kept = committed(tmp_path)
    resumed = run_ahead(tmp_path, shuffle=stop_at + 1)
    asked = {(log_name(purpose, version), name) for _, purpose, version, name in resumed.of("answer")}
    assert not asked & kept
    assert results(tmp_path) == results(whole[0])


def test_stopped_between_training_and_the_rest_of_the_answers(whole: tuple[Path, Events], tmp_path: Path) -> None:
    """The policy that is not the newest any more answers what it still has to, then the newest goes on."""
    never = threading.Event()

    def groups_of(config: Config, events: Events, shuffle: int | None) -> ActorGroups:
        class Slow(fakes.FakeEngines):
            def stream(self, questions: Any, policy: Any, sampling: Any, purpose: str) -> Iterator[Any]:
                for number, item in enumerate(super().stream(questions, policy, sampling, purpose)):
                    if purpose == "ahead" and number == 3:
                        while not self.is_stopped:
                            never.wait(0.01)
                            if events and events[-1] == ("publish", 1):
                                raise Stopped("after training")
                    yield item

        return replace(fakes.groups(config, events, shuffle), engines=Slow(config.run.seed, events))

    with pytest.raises(Stopped):
        run_ahead(tmp_path, groups_of=groups_of)
    kept = {name for log, name in committed(tmp_path) if log == log_path(1)}
    assert len(kept) == 3
    resumed = run_ahead(tmp_path)
    assert [event[1] for event in resumed.of("load")] == [0, 1, 2, 3]
    late = [event[3] for event in resumed.of("answer") if event[1:3] == ("ahead", 0)]
    assert sorted(late) == sorted({*ORDINARY, *DROPPED} - kept)
    assert results(tmp_path) == results(whole[0])


def test_an_error_of_the_engines_stops_the_run(tmp_path: Path) -> None:
    def groups_of(config: Config, events: Events, shuffle: int | None) -> ActorGroups:
        class Broken(fakes.FakeEngines):
            def stream(self, questions: Any, policy: Any, sampling: Any, purpose: str) -> Iterator[Any]:
                if purpose == "ahead":
                    raise ValueError("no engine")
                return super().stream(questions, policy, sampling, purpose)

        return replace(fakes.groups(config, events, shuffle), engines=Broken(config.run.seed, events))

    with pytest.raises(ValueError, match="no engine"):
        run_ahead(tmp_path, groups_of=groups_of)


def test_failed_questions_are_set_aside(tmp_path: Path) -> None:
    names = tuple(f"n{number}" for number in range(40))
    run(tmp_path, iterations=2, ahead=1, names=(*names, "failed/x"))
    for iteration in range(2):
        summary = json.loads((tmp_path / f"run/iter_{iteration:03d}/pairs-summary.json").read_text())
        assert (summary["pairs"], summary["drops"]) == (40, {"failed": 1})
