"""A run with questions that failed: they are committed with their errors, counted and shown, and the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fake_run
import fakes
import pytest
from fake_run import ITERATIONS, ORDINARY, metrics_of, results
from fakes import Events, Stopped
from msgspec import structs

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ClusterError, DataError
from maskdpo_ray.report import summary
from maskdpo_ray.store.question_log import log_path, read_questions
from maskdpo_ray.store.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_fsync")

NAMES = (*ORDINARY, "failed/x")


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, bool], None]:
    """Bear all failures, or the share that a test sets; a held-out question fails."""
    plain = fake_run.config_for

    def bear(share: float, judged: bool = False) -> None:
        def config_for(*arguments: object, **options: object) -> Config:
            config = plain(*arguments, **options)
            evaluator = "factscore" if judged else None
            return replace(
                config, run=replace(config.run, max_failed=share), eval=replace(config.eval, evaluator=evaluator)
            )

        monkeypatch.setattr(fake_run, "config_for", config_for)

    bear(1.0)
    monkeypatch.setattr(fake_run, "HELDOUT", ("h1", "h2", "failed/h3"))
    return bear


def failed_units(path: Path) -> list[tuple[str, str, tuple[str, ...], str]]:
    run = path / "run"
    logs = [(str(log.relative_to(run)), read_questions(log)) for log in run.glob("*_*/*questions.jsonl")]
    return [(name, each.question_id, each.drops, each.error) for name, log in logs for each in log if each.error]


def test_committed_with_the_error_and_counted(tmp_path: Path) -> None:
    fake_run.run(tmp_path, names=NAMES)
    error = "rollout engine 0: no answer to failed/"
    expected = [(log_path(i), "failed/x", ("failed",), f"{error}x") for i in range(ITERATIONS)]
    expected += [(log_path(v, "heldout"), "failed/h3", ("failed",), f"{error}h3") for v in range(ITERATIONS + 1)]
    assert sorted(failed_units(tmp_path)) == sorted(expected)
    pairs = json.loads((tmp_path / "run/iter_000/pairs-summary.json").read_text())
    assert (pairs["questions"], pairs["pairs"], pairs["drops"]) == (6, 5, {"failed": 1})
    assert pairs["failed_example"] == f"{error}x"
    logged = [entry for entry in metrics_of(tmp_path) if "pairs/count" in entry]
    assert [entry["pairs/dropped/failed"] for entry in logged] == [1] * ITERATIONS


@pytest.mark.parametrize("judged", [False, True])
def test_held_out_topic_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: Callable[[float, bool], None], judged: bool
) -> None:
    """The figures are those of a run that was never asked it."""
    lenient(1.0, judged)
    fake_run.run(tmp_path / "with")
    monkeypatch.setattr(fake_run, "HELDOUT", ("h1", "h2"))
    fake_run.run(tmp_path / "without")
    found, expected = results(tmp_path / "with"), results(tmp_path / "without")
    names = [name for name in expected if name.endswith(".json") and "heldout" in name and "gain" not in name]
    assert len(names) == (1 + judged) * (ITERATIONS + 1)
    for name in names:
        left_out = {"topic of failed/h3": "rollout engine 0: no answer to failed/h3"}
        assert found[name] == expected[name] | {"left_out": left_out}
    gains = [name for name in expected if name.endswith("-gain.json")]
    assert gains and all(found[name] == expected[name] for name in gains)


def test_a_topic_goes_with_its_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to the topic's other question don't count: they are not what the other side is compared by."""
    ask = fakes.question
    monkeypatch.setattr(
        fakes,
        "question",
        lambda name: (
            structs.replace(ask(name), topic="A")
            if name == "h2"
            else structs.replace(ask(name), topic="a")
            if name == "failed/h3"
            else ask(name)
        ),
    )
    fake_run.run(tmp_path)
    found = json.loads((tmp_path / "run/eval_000/heldout.json").read_text())
    assert (found["questions"], list(found["topic_sums"]), list(found["left_out"])) == (1, ["topic of h1"], ["A"])


def test_shown_with_an_example(tmp_path: Path) -> None:
    fake_run.run(tmp_path, names=NAMES)
    text = " ".join(summary.render(summary.build(tmp_path / "run"), width=400).split())
    assert "dropped in iteration 0: failed 1; failed, such as: rollout engine 0: no answer to failed/x" in text
    for version in range(ITERATIONS + 1):
        example = "such as 'topic of failed/h3': rollout engine 0: no answer to failed/h3"
        name = f"after {version}" if version else "before"
        assert f"heldout, {name}: 1 topics are LEFT OUT" in text and example in text


def test_restarts_are_counted_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = fakes.answers

    def answers(name: str, version: int, *rest: object) -> tuple[object, ...]:
        fakes.FakeEngines.restarts += (name, version) in (("a", 0), ("b", 0), ("h1", 2))
        return answer(name, version, *rest)

    monkeypatch.setattr(fakes.FakeEngines, "restarts", 0)
    monkeypatch.setattr(fakes, "answers", answers)
    fake_run.run(tmp_path)
    built = summary.build(tmp_path / "run")
    assert built["restarts"] == {"rollout": 3, "annotation": 0}
    assert "Actors that died or hung and were replaced: rollout 3, annotation 0" in summary.render(built)


def test_goes_on_without_asking_again(tmp_path: Path) -> None:
    """Stopped within the second iteration: what failed in the first one, which is through, is left at that."""
    with pytest.raises(Stopped):
        fake_run.run(tmp_path / "stopped", Events(stop_at=40), names=NAMES)
    kept = fake_run.committed(tmp_path / "stopped")
    assert (log_path(0), "failed/x") in kept
    resumed = fake_run.run(tmp_path / "stopped", names=NAMES)
    asked = {(fake_run.log_name(purpose, version), name) for _, purpose, version, name in resumed.of("answer")}
    assert not asked & kept
    fake_run.run(tmp_path / "whole", names=NAMES)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_too_many_stop_the_run_and_are_tried_again(tmp_path: Path, lenient: Callable[[float], None]) -> None:
    many = (*ORDINARY, *(f"failed/{number}" for number in range(4)))
    lenient(0.1)
    with pytest.raises(
        ClusterError, match=r"^expected at most 10% of the last questions to fail \(run.max_failed\), got 3 "
    ):
        fake_run.run(tmp_path, names=many)
    assert [unit[1] for unit in failed_units(tmp_path)] == ["failed/h3"]  # of the evaluation, which is through
    lenient(1.0)
    events = fake_run.run(tmp_path, names=many)
    again = [event[3] for event in events.of("answer") if event[1:3] == ("train", 0)]
    assert sorted(again) == sorted(name for name in many if name.startswith("failed/"))


def test_too_many_held_out_ones_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: Callable[[float], None]
) -> None:
    failing = tuple(f"failed/h{number}" for number in range(3))
    monkeypatch.setattr(fake_run, "HELDOUT", ("h1", *failing))
    lenient(0.1)
    with pytest.raises(ClusterError, match="got 3 "):
        fake_run.run(tmp_path)
    assert failed_units(tmp_path) == []
    lenient(1.0)
    fake_run.run(tmp_path)
    assert {unit[1] for unit in failed_units(tmp_path) if unit[0] == log_path(0, "heldout")} == set(failing)


@pytest.mark.parametrize(
    ("heldout", "names", "message"),
    [
        (("failed/h",), ORDINARY, "heldout, policy 0: a question of every topic failed: rollout engine 0: "),
        (("h1",), ("failed/x",), "iteration 0: none of 1 questions gave a pair: 1 failed; more "),
    ],
)
def test_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heldout: tuple[str, ...], names: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(fake_run, "HELDOUT", heldout)
    with pytest.raises(DataError) as caught:
        fake_run.run(tmp_path, names=names)
    assert str(caught.value).startswith(message)


def test_survives_in_the_folder(tmp_path: Path) -> None:
    """Between questions with answers, and after one that a kill cut off."""
    from test_run_folder import CONFIG, VERSIONS, unit

    path = tmp_path / "run"
    with RunFolder.open(path, CONFIG, VERSIONS) as folder:
        folder.questions(0).commit(fakes.committed("q0", *unit("q0")))
        folder.questions(0).set_aside("x", "annotation actor 0: no memory")
        folder.questions(0).commit(fakes.committed("q1", *unit("q1")))
        folder.evaluated(0, "heldout").set_aside("y", "gone")
    with (path / log_path(0)).open("ab") as file:
        file.write(b'{"question_id": "q3"')
    with RunFolder.open(path, CONFIG, VERSIONS) as folder:
        assert folder.questions(0).question_ids == {"q0", "x", "q1"}
        assert folder.questions(0).errors() == {"x": "annotation actor 0: no memory"}
        assert folder.questions(0).drops() == {"failed": 1}
        assert [pair.question_id for _, pair in folder.questions(0).pairs()] == ["q0", "q1"]
        assert folder.evaluated(0, "heldout").errors() == {"y": "gone"}
        assert list(folder.evaluated(0, "heldout").answers()) == []
