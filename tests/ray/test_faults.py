"""Actors that die, hang or answer nonsense: replaced, questions are retried; one that no try answers fails alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
from running import MINE, Running, config_for, started
from shared_ray import SharedRay

from actors.pool import Pool
from maskdpo_ray.annotation import protocol
from maskdpo_ray.cluster import Cluster
from maskdpo_ray.config.schema import AnnotationConfig
from maskdpo_ray.errors import ClusterError, ConfigError
from maskdpo_ray.records import Answered, Failed

GOOD = [f"q{index}" for index in range(6)]


def all_back(pool: Pool) -> None:
    """Return when every actor takes calls."""
    while not all(map(pool.is_available, range(len(pool)))):
        pool.await_any(range(len(pool)))


def starts(running: Running, since: int) -> list[dict[str, Any]]:
    """Starts of engines; waits for the first one, as the other engine may have answered all before that."""
    end = time.monotonic() + 60
    while not (found := running.notes("engine", "start", since)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.fixture(scope="class")
def running(tmp_path_factory: pytest.TempPathFactory, cluster_of_all: SharedRay) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("faults"), cluster_of_all) as running:
        yield running


class TestFaults:
    """One cluster for all: what a test does to the engines, the next one finds mended."""

    def test_dead_engine_comes_back_on_the_right_policy(
        self, running: Running, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Ray starts it anew on the initial policy; what it was asked is answered by the policy it was asked of."""
        policy = running.policy(1)
        running.groups.engines.load(policy)
        since, before = running.count("engine"), running.groups.engines.restarts
        names = ["die/x", *GOOD]
        assert running.answered(names, policy) == {name: [1, 1, 1] for name in names}
        all_back(running.groups.engines.pool)  # until then the other engine answers all
        assert running.answered(GOOD, policy) == {name: [1, 1, 1] for name in GOOD}
        (start,) = running.notes("engine", "start", since)
        assert start["version"] == 0
        loads = running.notes("engine", "load", since)
        assert [load["version"] for load in loads if load["pid"] == start["pid"]][:1] == [1]
        tries = [note["pid"] for note in running.notes("engine", "generate", since) if note["question"] == "die/x"]
        assert len(tries) == 2 and len(set(tries)) == 2
        assert running.groups.engines.restarts == before + 1
        said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("rollout engine ")]
        assert len(said) == 1 and "its process ended; it is restarted" in said[0]

    def test_restarted_engine_that_does_not_see_the_policy_gets_its_bytes(self, running: Running) -> None:
        policy = running.policy(2, "unseen-2")
        running.groups.engines.load(policy)
        since = running.count("engine")
        assert running.answered(["die/bytes"], policy) == {"die/bytes": [2, 2, 2]}
        all_back(running.groups.engines.pool)
        assert running.answered(GOOD, policy) == {name: [2, 2, 2] for name in GOOD}
        assert {note["received"] for note in running.notes("engine", "load", since)} == {policy.checksum}

    def test_engine_that_hangs_once_is_replaced(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        """One question hangs while others finish: time is counted from when it became its engine's oldest."""
        running.groups.engines.load(running.initial)
        since, start = running.count("engine"), time.monotonic()
        names = ["hang/once", *GOOD]
        assert running.answered(names, running.initial, timeout_s=2) == {name: [0, 0, 0] for name in names}
        assert time.monotonic() - start < 20
        assert len(starts(running, since)) == 1
        assert "no answer to its oldest call within 2 s (cluster.step_timeout_s)" in capfd.readouterr().err

    def test_lost_engine_says_why(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        since = running.count("engine")
        names = ["dead/x", *GOOD]
        assert running.answered(names, running.initial) == {name: [0, 0, 0] for name in names}
        assert len(starts(running, since)) == 1
        assert "vLLM lost its engine process; it is restarted" in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("poison/x", "its process ended"),
            ("broken/x", "RuntimeError: no memory left"),
            (
                "few/x",
                "question 'few/x': expected 3 answers in order, got (question, answer, policy) [('few/x', 0, 0), ",
            ),
            ("stale/x", "question 'stale/x': expected answers of policy 0 "),
        ],
    )
    def test_question_that_fails_three_times_is_given_up_alone(self, running: Running, name: str, error: str) -> None:
        """Those in its company are answered, an engine's death or not."""
        since = running.count("engine")
        names = [*GOOD[:3], name, *GOOD[3:]]
        found = running.answered(names, running.initial)
        failure = found.pop(name)
        assert found == {name: [0, 0, 0] for name in GOOD}
        assert failure.startswith(("rollout engine 0: ", "rollout engine 1: ")) and error in failure
        assert "\n" not in failure
        tries = [note for note in running.notes("engine", "generate", since) if note["question"] == name]
        assert len(tries) == 3
        assert tries[-1]["running"] == 1  # alone

    def test_one_that_always_hangs_is_given_up(self, running: Running) -> None:
        found = running.answered(["stuck/x", *GOOD], running.initial, timeout_s=1, start_s=10)
        assert "no answer to its oldest call" in found.pop("stuck/x")
        assert found == {name: [0, 0, 0] for name in GOOD}

    def test_what_failed_before_passes_the_other_groups(self, running: Running) -> None:
        failed = Failed(fakes.question("x"), "rollout engine 0: gone")
        stream = running.groups.evaluators.stream(running.groups.annotators.stream([failed]))
        assert list(stream) == [failed]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An annotator whose module lies in the working directory."""
    module = f"mine_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return f"python:{module}:Judge"


def answered(*names: str) -> list[Answered]:
    return [Answered(fakes.question(name), (), fakes.answers(name, 0, 0, 2)) for name in names]


def test_an_annotator_of_ones_own(tmp_path: Path, mine: str, capfd: Any) -> None:
    """It is too large for a message; its actor dies and comes back; its errors are its questions', a config's are not;
    and a question comes to the same actor as before when that was replaced."""
    died = tmp_path / "died"
    config = config_for(tmp_path, annotation=AnnotationConfig(num_actors=2, max_in_flight=4))
    with Cluster(config) as cluster:
        group = cluster.start_annotators(protocol.build(mine, {"died": str(died)}))

        def stream(*names: str) -> dict[str, Any]:
            return {
                item.question.id: item.error if isinstance(item, Failed) else item.annotations[0].sentences[0].evidence
                for item in group.stream(answered(*names))
            }

        first = stream(*GOOD)
        assert died.exists() and first.keys() == set(GOOD) and group.restarts == 1
        found = stream("raises/x", "odd/x", "exits/x", "nothing/x", *GOOD)
        module = tmp_path / f"{mine.split(':')[1]}.py"
        line = 1 + MINE.splitlines().index('            raise KeyError("no such\\nentry")')
        assert found.pop("raises/x").endswith(f": KeyError: 'no such\\nentry' ({module}:{line})")
        assert ": Odd: two words (" in found.pop("odd/x")
        assert ": SystemExit: 3 (" in found.pop("exits/x")
        assert found.pop("nothing/x").endswith(": annotator: expected a list of 2 annotations, got 0")
        assert found == first and group.restarts == 1
        all_back(group.pool)
        found = stream("kills/x", *GOOD)
        assert found.pop("kills/x").endswith(": its process ended")
        assert group.restarts == 4
        assert {name for name in GOOD if found[name] != first[name]} < set(
            GOOD
        )  # those of one actor have a new process
        assert len(set(found.values())) == 2
        with pytest.raises(ConfigError, match="^annotation.options.key: expected one$"):
            stream("config/x", *GOOD)
    said = capfd.readouterr()
    assert "object store" not in said.out + said.err  # Ray's warning that a restart may fail


def test_a_start_that_fails_is_one_line(tmp_path: Path) -> None:
    """No engine is asked again and again: what it says reaches the user."""
    initial = fakes.write_policy(tmp_path / "model", 0, b"initial")
    config = config_for(tmp_path)
    with pytest.raises(ClusterError, match=r"^policy version 0: expected it at .*/gone on this node, found none$"):  # noqa: SIM117
        with Cluster(config) as cluster:
            gone = type(initial)(0, str(tmp_path / "gone"), initial.checksum)
            cluster.start(gone, fakes.CharChat(), protocol.build("facts"))
