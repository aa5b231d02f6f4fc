"""The whole loop over fakes: order of events, on-policy pairs, drops, references, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import example_media
import fakes
import pytest
from fake_run import (
    DROPPED,
    HELDOUT,
    ITERATIONS,
    ORDINARY,
    TRANSFER,
    committed,
    log_name,
    metrics_of,
    pairs_of,
    results,
    run,
)
from fakes import CharTokenizer, Events, Stopped, fake_logps

from actors import weights
from maskdpo_ray.config.schema import LoggerConfig, SavingsConfig
from maskdpo_ray.errors import DataError, ModelError, RunFolderError
from maskdpo_ray.pairing import examples as pairing_examples
from maskdpo_ray.pairing.masks import MASK_DPO
from maskdpo_ray.records import Policy, PreferencePair, from_json
from maskdpo_ray.store.trackers.media import Table
from maskdpo_ray.training import batches as batching
from maskdpo_ray.training import reference
from maskdpo_ray.training.example_store import ExampleStore

pytestmark = pytest.mark.usefixtures("no_fsync")
IDS = tuple(f"{name}#0" for name in ORDINARY)
"""The examples of the questions that give a pair each."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> tuple[Path, Events]:
    """A run that nothing stopped."""
    path = tmp_path_factory.mktemp("whole")
    return path, run(path)


def test_trackers_show_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_media.Shows, "all", [])
    logger = LoggerConfig(trackers=("python:example_media:Shows",), num_samples=2)
    run(tmp_path, sections={"logger": logger}, iterations=1)
    (tracker,) = example_media.Shows.all
    shown = [({name.split("/")[1] for name in media}, step) for media, step in tracker.shown]
    before, after = ([({split}, version) for split in ("heldout", "transfer")] for version in (0, 1))
    assert shown == [*before, ({"pairs"}, 0), ({"train"}, 0), *after]
    pairs = tracker.shown[2][0]["media/pairs/answers_table"]
    assert isinstance(pairs, Table) and len(pairs.rows) == 2


def test_order_of_events(whole: tuple[Path, Events]) -> None:
    """Evaluate first; then, each iteration: all answers, reference, training, publish, load, evaluate."""
    order: list[tuple] = []
    for event in whole[1]:
        kind = event[:3] if event[0] == "answer" else event[:2]
        if event[0] != "label" and (not order or order[-1] != kind):
            order.append(kind)
    expected: list[tuple] = [("load", 0), ("answer", "evaluate-heldout", 0), ("answer", "evaluate-transfer", 0)]
    for i in range(ITERATIONS):
        expected += [
            ("answer", "train", i),
            ("reference", i),
            ("begin", i),
            ("step", i),
            ("publish", i + 1),
            ("load", i + 1),
            ("answer", "evaluate-heldout", i + 1),
            ("answer", "evaluate-transfer", i + 1),
        ]
    assert order == expected


def test_pairs_are_of_the_iterations_policy(whole: tuple[Path, Events]) -> None:
    path, _ = whole
    for iteration in range(ITERATIONS):
        pairs = pairs_of(path, iteration)
        assert sorted(pair["question_id"] for pair in pairs) == list(ORDINARY)
        for pair in pairs:
            answered = fakes.answers(pair["question_id"], iteration, "1/train", 4)
            for side in ("chosen", "rejected"):
                rollout = answered[pair[side]["rollout"]["sample"]]
                assert pair[side]["rollout"]["text"] == rollout.text
                assert pair[side]["rollout"]["policy_version"] == pair["policy_version"] == iteration
            assert (pair["chosen"]["score"], pair["rejected"]["score"]) == (1.0, 0.0)


def test_every_question_once_and_held_out_ones_never_trained_on(whole: tuple[Path, Events]) -> None:
    asked = [event[1:] for event in whole[1].of("answer")]
    assert len(set(asked)) == len(asked)
    versions = range(ITERATIONS + 1)
    expected = {("train", v, name) for v in range(ITERATIONS) for name in ORDINARY + DROPPED}
    expected |= {("evaluate-heldout", v, name) for v in versions for name in HELDOUT}
    expected |= {("evaluate-transfer", v, name) for v in versions for name in TRANSFER}
    assert set(asked) == expected
    trained = {name for event in whole[1].of("step") for name in event[2]}
    assert trained == set(IDS)


def test_every_pair_once_an_epoch_and_steps_count_on(whole: tuple[Path, Events]) -> None:
    path, events = whole
    for iteration in range(ITERATIONS):
        batches = [event[2] for event in events.of("step") if event[1] == iteration]
        seeded = batching.epoch_batches(len(ORDINARY), 2, 2, seed=1 + iteration)
        assert batches == [tuple(IDS[i] for i in batch) for batch in seeded]
        for epoch in (batches[:3], batches[3:]):
            assert sorted(name for batch in epoch for name in batch) == list(IDS)
    steps = [entry["step"] for entry in metrics_of(path) if "train/loss" in entry]
    assert steps == list(range(6 * ITERATIONS))


def test_drops_are_counted(whole: tuple[Path, Events]) -> None:
    """An answer that can't be located in its tokens is a counted drop, not an unmasked pair or a crash."""
    path, _ = whole
    summary = json.loads((path / "run/iter_000/pairs-summary.json").read_text())
    assert summary["drops"] == {"identical_text": 1, "truncated": 1, "not_located": 1}
    assert (summary["questions"], summary["pairs"]) == (8, 5)
    assert summary["mixture"] == {"chosen_with_incorrect": 0.0, "rejected_with_correct": 0.0}
    logged = [entry for entry in metrics_of(path) if "pairs/count" in entry]
    assert [entry["pairs/dropped/not_located"] for entry in logged] == [1] * ITERATIONS


def test_evaluations_and_gains(whole: tuple[Path, Events]) -> None:
    folder = whole[0] / "run"
    for version in range(ITERATIONS + 1):
        found = json.loads((folder / f"eval_{version:03d}/heldout.json").read_text())
        assert (found["questions"], found["replications"]) == (len(HELDOUT), 2)
        # Of two replications the fake answers the first all right, the second all wrong.
        assert found["metrics"]["score"]["per_replication"] == [1.0, 0.0]
        assert (folder / f"eval_{version:03d}/transfer-gain.json").exists() == (version > 0)


@pytest.mark.parametrize("which", ["initial", "previous"])
def test_reference_policy(tmp_path: Path, which: str) -> None:
    events = run(tmp_path, which=which)
    versions = [event[1] for event in events.of("reference")]
    assert versions == ([0, 0] if which == "initial" else [0, 1])
    checksums = [weights.checksum(tmp_path / folder) for folder in ("model", "run/iter_000/policy")]
    for iteration, version in enumerate(versions):
        records = [from_json(PreferencePair, value) for value in pairs_of(tmp_path, iteration)]
        examples = [pairing_examples.make_example(pair, CharTokenizer(), MASK_DPO, "last_sentence") for pair in records]
        examples = ExampleStore.write(tmp_path / f"examples-{iteration}", examples)
        stored = reference.load(
            tmp_path / f"run/iter_{iteration:03d}/reference-logps.safetensors", examples, checksums[version]
        )
        for example, sides in zip(examples, stored, strict=True):
            for side, expected in zip(sides, fake_logps(example, checksums[version]), strict=True):
                assert side.tolist() == expected.tolist()


@pytest.mark.parametrize("which", ["initial", "previous"])
def test_reference_in_every_step(tmp_path: Path, which: str) -> None:
    """The trainer gets the policy in place of its log-probs, and comes to the same weights."""
    once, each_step = tmp_path / "once", tmp_path / "each-step"
    for folder in (once, each_step):
        folder.mkdir()
    run(once, which=which)
    events = run(each_step, which=which, savings=SavingsConfig(reference_once=False))
    assert events.of("reference") == []
    expected = results(once)
    for iteration in range(ITERATIONS):
        del expected[f"iter_{iteration:03d}/reference-logps.safetensors"]
    assert results(each_step) == expected


def test_no_pairs_left(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, names=DROPPED)
    message = str(caught.value)
    assert message.startswith("iteration 0: none of 3 questions gave a pair: ")
    assert " 1 truncated" in message and "\n" not in message


def test_completion_order_does_not_matter(whole: tuple[Path, Events], tmp_path: Path) -> None:
    expected, events = whole
    shuffled = run(tmp_path, shuffle=7)
    order = [event[3] for event in shuffled.of("answer") if event[1:3] == ("train", 0)]
    assert order != [event[3] for event in events.of("answer") if event[1:3] == ("train", 0)]
    for kind in ("reference", "begin", "step"):
        assert shuffled.of(kind) == events.of(kind)
    assert results(tmp_path) == results(expected)


def test_finished_run_is_recognised(tmp_path: Path) -> None:
    run(tmp_path)
    before = results(tmp_path)
    again = run(tmp_path)
    assert {event[0] for event in again} == {"load"}
    ledger = [json.loads(line) for line in (tmp_path / "run/ledger.jsonl").read_text().splitlines()]
    finished = [(entry["stage"], entry["iteration"]) for entry in ledger if "finished" in entry]
    assert len(set(finished)) == len(finished)
    assert results(tmp_path) == before


def num_trained(path: Path) -> int:
    """Iterations whose policy the ledger holds."""
    ledger = path / "run/ledger.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return sum("finished" in entry and entry["stage"] == "train" for entry in entries)


# Of 71: before each kind of event (load, answer, label, reference, begin, step, publish), in both iterations.
@pytest.mark.parametrize("stop_at", [0, 2, 12, 23, 24, 28, 31, 32, 35, 46, 60, 64, 70])
def test_goes_on_after_a_stop(whole: tuple[Path, Events], tmp_path: Path, stop_at: int) -> None:
    """Stopped anywhere, a new process ends with the same files and asks nothing that is committed."""
    expected, events = whole
    assert len(events) == 71
    with pytest.raises(Stopped):
        run(tmp_path, Events(stop_at), shuffle=stop_at)
    kept, trained, logged = committed(tmp_path), num_trained(tmp_path), len(metrics_of(tmp_path))
    resumed = run(tmp_path, shuffle=stop_at + 1)
    asked = {(log_name(purpose, version), name) for _, purpose, version, name in resumed.of("answer")}
    assert not asked & kept
    loads = [event[1] for event in resumed.of("load")]
    assert loads == list(range(trained, ITERATIONS + 1))  # none that a finished iteration has replaced
    iterations = [line["step"] for line in metrics_of(tmp_path)[logged:] if "timing/iteration_s" in line]
    assert iterations == list(range(trained, ITERATIONS))
    assert asked | kept == {(log_name(p, v), name) for _, p, v, name in events.of("answer")}
    assert results(tmp_path) == results(expected)


@pytest.mark.parametrize("done", range(6))
def test_training_goes_on_from_its_last_checkpoint(whole: tuple[Path, Events], tmp_path: Path, done: int) -> None:
    """Stopped before any of an iteration's six steps: at most two are done again, and none is counted twice."""
    expected, events = whole
    steps = [index for index, event in enumerate(events) if event[:2] == ("step", 0)]
    with pytest.raises(Stopped):
        run(tmp_path, Events(steps[done]))
    resumed = run(tmp_path)
    first = done // 2 * 2
    assert [event for event in resumed.of("step") if event[1] == 0] == [events[index] for index in steps[first:]]
    assert results(tmp_path) == results(expected)
    logged, whole_log = (
        {line["step"]: line for line in metrics_of(path) if "train/loss" in line} for path in (tmp_path, expected)
    )
    for step, line in whole_log.items():
        assert line["train/loss"] == logged[step]["train/loss"]
    assert logged.keys() == whole_log.keys()
    tokens = [
        [line["tokens/train"] for line in metrics_of(path) if "tokens/train" in line] for path in (tmp_path, expected)
    ]
    assert tokens[0] == tokens[1]


def test_a_policy_that_is_not_the_trained_one_is_not_committed(
    whole: tuple[Path, Events], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detected after the policy was written: the checkpoint stays, and the next start resumes from it."""
    publish = fakes.FakeTrainer.publish

    def refused(*arguments: Any) -> Any:
        publish(*arguments)
        raise ModelError("policy: expected log-probs of the policy that was trained")

    with monkeypatch.context() as patch:
        patch.setattr(fakes.FakeTrainer, "publish", refused)
        with pytest.raises(ModelError):
            run(tmp_path)
    assert (tmp_path / "run/iter_000/policy").exists()
    assert not [line for line in metrics_of(tmp_path) if "train/published_margin" in line]
    resumed = run(tmp_path)
    assert [event for event in resumed if event[0] in ("step", "publish")][0] == ("publish", 1)
    assert results(tmp_path) == results(whole[0])
    for path in (tmp_path, whole[0]):
        logged = [line for line in metrics_of(path) if "train/published_margin" in line]
        assert [line["step"] for line in logged] == list(range(ITERATIONS))
        assert all(
            (line["train/published_logp_error"], line["train/published_margin"]) == (0.0, 1.0) for line in logged
        )


def test_stopped_again_and_again(whole: tuple[Path, Events], tmp_path: Path) -> None:
    """Each life has 14 events, just enough to train once; together they end with the same files."""
    for _ in range(40):
        try:
            run(tmp_path, Events(stop_at=14))
            break
        except Stopped:
            continue
    else:
        pytest.fail("no progress")
    assert results(tmp_path) == results(whole[0])


def test_changed_policy_is_refused(tmp_path: Path) -> None:
    """A published policy that is not what training left is not answered with."""
    with pytest.raises(Stopped):
        run(tmp_path, Events(stop_at=50))
    (tmp_path / "run/iter_000/policy/model.safetensors").write_bytes(b"other")
    with pytest.raises(RunFolderError, match="changed after stage 'train'"):
        run(tmp_path)


def test_other_initial_policy_is_refused(tmp_path: Path) -> None:
    """Half a run with one model and half with another is no run."""
    with pytest.raises(Stopped):
        run(tmp_path, Events(stop_at=20))
    with pytest.raises(RunFolderError, match="model.model_name_or_path"):
        run(tmp_path, content=b"another model")


def test_other_questions_are_refused(tmp_path: Path) -> None:
    """Half a run on one set of questions and half on another is no run."""
    with pytest.raises(Stopped):
        run(tmp_path, Events(stop_at=20))
    with pytest.raises(RunFolderError, match="data, train questions: expected those that the run in"):
        run(tmp_path, names=ORDINARY)


def test_changed_first_evaluation_is_refused(tmp_path: Path) -> None:
    """Every later gain, and the summary of a finished run, are over it."""
    run(tmp_path)
    file = tmp_path / "run/eval_000/heldout.json"
    file.write_bytes(file.read_bytes().replace(b"1.0", b"0.5", 1))
    with pytest.raises(RunFolderError, match="heldout.json: changed after stage 'evaluate-heldout' left it"):
        run(tmp_path)


def test_policy_versions(whole: tuple[Path, Events]) -> None:
    ledger = [json.loads(line) for line in (whole[0] / "run/ledger.jsonl").read_text().splitlines()]
    trained = [entry for entry in ledger if entry["stage"] == "train"]
    for iteration, entry in enumerate(trained):
        folder = whole[0] / f"run/iter_{iteration:03d}/policy"
        assert weights.publish(folder, iteration + 1) == Policy(iteration + 1, str(folder), entry["facts"]["checksum"])
