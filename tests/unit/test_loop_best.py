"""The policy that a run keeps: chosen on development topics, early stop, runs that are extended, over fakes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
from fake_run import ITERATIONS, committed, config_for, log_name, results, run
from fakes import Events, Stopped
from msgspec.structs import replace

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Annotation, Answered, Failed, Labelled, Sentence
from maskdpo_ray.stages.protocols import ActorGroups
from maskdpo_ray.store.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_fsync")

DEV = tuple(f"dev/{i}" for i in range(4))
KINDS = ("capital", "continent", "currency", "language")
BEST_IS_1 = (1, 3, 2, 2, 2, 4)
"""Right ones of four facts on development topics, by policy version: policy 5 is better still."""


class Annotators(fakes.FakeAnnotators):
    """Labels answers to development questions by the version of their policy, others as ever."""

    def __init__(self, events: Events, right: tuple[int, ...], heldout: str | None) -> None:
        super().__init__(events)
        self._right, self._heldout = right, heldout

    def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
        for item in super().stream(answered):
            if isinstance(item, Failed):
                yield item
            elif item.question.id.startswith("dev/"):
                yield Labelled(
                    item.question, item.prompt_token_ids, item.rollouts, tuple(map(self._dev, item.rollouts))
                )
            elif self._heldout is not None and item.question.id.startswith("h"):
                labels = tuple(
                    Annotation(r.question_id, r.sample, (Sentence(0, 1, self._heldout),)) for r in item.rollouts
                )
                yield Labelled(item.question, item.prompt_token_ids, item.rollouts, labels)
            else:
                yield item

    def _dev(self, rollout: Any) -> Annotation:
        right = self._right[rollout.policy_version]
        labels = [NO_HALLUCINATION] * right + [CONTRADICTORY] * (len(KINDS) - right)
        found = (
            Sentence(i, i + 1, label, kind=kind) for i, (kind, label) in enumerate(zip(KINDS, labels, strict=True))
        )
        return Annotation(rollout.question_id, rollout.sample, tuple(found))


def run_dev(
    path: Path,
    events: Events | None = None,
    right: tuple[int, ...] = BEST_IS_1,
    heldout: str | None = None,
    **options: Any,
) -> Events:
    """`run` with development topics and `keep: best`."""

    def groups_of(config: Config, noted: Events, shuffle: int | None) -> ActorGroups:
        given = fakes.groups(config, noted, shuffle)
        annotators = Annotators(noted, right, heldout)
        return ActorGroups(given.engines, annotators, given.evaluators, trainer=given.trainer)

    dev = [replace(fakes.question(name), facts={"asks": [*KINDS]}) for name in DEV]
    return run(path, events, groups_of=groups_of, dev=dev, **{"keep": "best", "iterations": 3, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> tuple[Path, Events]:
    """A run of three iterations that nothing stopped; its first one gives the best policy."""
    path = tmp_path_factory.mktemp("whole")
    return path, run_dev(path)


def choice(path: Path, version: int) -> dict[str, Any]:
    return json.loads((path / f"run/eval_{version:03d}/choice.json").read_text())


def link(path: Path) -> str:
    return os.readlink(path / "run/policy")


def test_the_best_policy_is_kept(whole: tuple[Path, Events]) -> None:
    path, events = whole
    assert [choice(path, version)["version"] for version in range(4)] == [0, 1, 1, 1]
    assert [each["balance"] for each in choice(path, 3)["candidates"]] == pytest.approx([1 / 4, 3 / 4, 2 / 4, 2 / 4])
    assert link(path) == "iter_000/policy"
    assert (path / "run/policy/model.safetensors").read_bytes() == (
        path / "run/iter_000/policy/model.safetensors"
    ).read_bytes()
    asked = {event[3] for event in events.of("answer") if event[1] == "train"}
    assert not asked & set(DEV)


def test_without_development_topics_the_last_is_kept(tmp_path: Path) -> None:
    run(tmp_path)
    assert link(tmp_path) == f"iter_{ITERATIONS - 1:03d}/policy"
    assert choice(tmp_path, ITERATIONS) == {
        "keep": "last", "version": ITERATIONS, "best": None, "told_by": None, "candidates": []
    }  # fmt: skip


def test_where_training_only_harms_policy_0_is_kept(tmp_path: Path) -> None:
    run_dev(tmp_path, right=(3, 1, 1, 1))
    assert link(tmp_path) == str(tmp_path / "model")


def test_held_out_topics_take_no_part(whole: tuple[Path, Events], tmp_path: Path) -> None:
    """Answers are all right, or all wrong: the choice is the same to the byte."""
    for label in (NO_HALLUCINATION, CONTRADICTORY):
        folder = tmp_path / label
        folder.mkdir()
        run_dev(folder, heldout=label)
        scores = [json.loads((folder / f"run/eval_{v:03d}/heldout.json").read_text()) for v in range(4)]
        assert {each["metrics"]["score"]["mean"] for each in scores} == {float(label == NO_HALLUCINATION)}
        for version in range(4):
            assert choice(folder, version) == choice(whole[0], version)


def test_patience_ends_the_run(whole: tuple[Path, Events], tmp_path: Path) -> None:
    run_dev(tmp_path, iterations=5, patience=2)
    assert results(tmp_path) == results(whole[0])  # policies 2 and 3 are no better than policy 1
    assert link(tmp_path) == "iter_000/policy"
    again = run_dev(tmp_path, iterations=5, patience=2)
    assert {event[0] for event in again} == {"load"}


def test_patience_counts_from_the_best(tmp_path: Path) -> None:
    run_dev(tmp_path, right=(1, 2, 2, 3, 3, 3), iterations=5, patience=2)
    assert choice(tmp_path, 5)["version"] == 3


@pytest.mark.parametrize("patience", [4, None])
def test_a_run_that_patience_ended_is_extended_by_more_patience(tmp_path: Path, patience: int | None) -> None:
    ended, undisturbed = tmp_path / "ended", tmp_path / "undisturbed"
    for folder in (ended, undisturbed):
        folder.mkdir()
    run_dev(ended, iterations=3, patience=1)
    assert not (ended / "run/iter_002").exists()
    assert {event[0] for event in run_dev(ended, iterations=5, patience=1)} == {"load"}  # iterations alone don't
    run_dev(ended, iterations=5, patience=patience)
    run_dev(undisturbed, iterations=5, patience=patience)
    assert results(ended) == results(undisturbed)
    assert link(ended) == link(undisturbed) == "iter_004/policy"


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_finished_run_is_extended(tmp_path: Path, ahead: int) -> None:
    """By as many iterations as an undisturbed run has, with the same files, collected ahead too."""
    extended, undisturbed = tmp_path / "extended", tmp_path / "undisturbed"
    for folder in (extended, undisturbed):
        folder.mkdir()
    run(extended, iterations=1, ahead=ahead)
    asked = committed(extended)
    events = run(extended, iterations=3, ahead=ahead)
    assert not asked & {(log_name(purpose, version), name) for _, purpose, version, name in events.of("answer")}
    run(undisturbed, iterations=3, ahead=ahead)
    assert results(extended) == results(undisturbed)
    assert link(extended) == "iter_002/policy"


def test_fewer_iterations_than_done_are_refused(tmp_path: Path) -> None:
    run(tmp_path, iterations=2)
    ledger = (tmp_path / "run/ledger.jsonl").read_bytes()
    with pytest.raises(RunFolderError) as caught:
        run(tmp_path, iterations=1)
    expected = f"run.iterations: expected at least 2, as many as the run in {tmp_path}/run has done, got 1; "
    assert str(caught.value).startswith(expected)
    with pytest.raises(RunFolderError, match="run.iterations: expected at least 2"):  # the dry run, too
        RunFolder.check(tmp_path / "run", cli.resolved(config_for(tmp_path, iterations=1)))
    assert (tmp_path / "run/ledger.jsonl").read_bytes() == ledger


def test_fewer_iterations_end_a_run_that_has_not_done_them(tmp_path: Path) -> None:
    whole, shortened = tmp_path / "whole", tmp_path / "shortened"
    for folder in (whole, shortened):
        folder.mkdir()
    run(whole, iterations=1)
    with pytest.raises(Stopped):
        run(shortened, Events(stop_at=35), iterations=3)  # in the first training
    run(shortened, iterations=1)
    assert results(shortened) == results(whole)


@pytest.mark.parametrize("stop_at", range(0, 135, 12))
def test_a_run_that_was_stopped_keeps_the_same(whole: tuple[Path, Events], tmp_path: Path, stop_at: int) -> None:
    assert len(whole[1]) == 135
    with pytest.raises(Stopped):
        run_dev(tmp_path, Events(stop_at))
    run_dev(tmp_path)
    assert results(tmp_path) == results(whole[0])
    assert link(tmp_path) == link(whole[0])


def test_stopped_between_evaluation_and_choice(
    whole: tuple[Path, Events], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskdpo_ray.stages import choose

    def stop(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(choose, "commit", stop)
        with pytest.raises(Stopped):
            run_dev(tmp_path)
    run_dev(tmp_path)
    assert results(tmp_path) == results(whole[0])


def test_what_is_kept_may_change(tmp_path: Path) -> None:
    run_dev(tmp_path, keep="last")
    assert link(tmp_path) == "iter_002/policy" and choice(tmp_path, 3)["best"] == 1
    run_dev(tmp_path, keep="best")
    assert link(tmp_path) == "iter_000/policy"
    assert (choice(tmp_path, 3)["keep"], choice(tmp_path, 3)["version"]) == ("best", 1)


def test_a_folder_in_place_of_the_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, Events(stop_at=2))
    (tmp_path / "run/policy").mkdir()
    with pytest.raises(
        RunFolderError, match=r"run/policy: expected a symbolic link to .*/model, or nothing, got files"
    ):
        run(tmp_path)
