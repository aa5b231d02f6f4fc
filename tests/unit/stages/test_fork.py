"""A run that begins with another's results: the same bytes as a run alone, and nothing that an option could change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_arms import beginning, config_of, results, run
from fake_run import DROPPED, ORDINARY
from fakes import Events, Stopped

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import LABELS
from maskdpo_ray.stages import fork
from maskdpo_ray.stages.fork import Fork, Shared
from maskdpo_ray.store import files

pytestmark = pytest.mark.usefixtures("no_fsync")
SFT = {"sft.iterations": 1, "sft.max_epochs": 1}
EVALUATIONS = ("heldout", "transfer", "dev")
LABELLED = dict.fromkeys(LABELS, 0.5)
EVERY = len(ORDINARY + DROPPED)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> Path:
    """Folder of runs: `plain`, and `sft` whose first iteration fine-tunes."""
    runs = tmp_path_factory.mktemp("experiment") / "runs"
    run(beginning(config_of(runs, "plain", {})))
    run(beginning(config_of(runs, "sft", SFT)))
    return runs


def forked(runs: Path, old: str, options: dict[str, Any], names: tuple[str, ...] = ORDINARY + DROPPED) -> Shared:
    """Results that a run with `options` would share with `old`, which is there."""
    others = SFT if old == "sft" else {}
    new = beginning(config_of(runs, "new", options), names)
    return Fork(new, beginning(config_of(runs, old, others))).shared()


def evaluated(*versions: int) -> tuple[tuple[int, str], ...]:
    return tuple((version, name) for version in versions for name in EVALUATIONS)


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({"mask.policy": "vanilla"}, Shared(0, evaluated(0), EVERY)),
        ({"mask.eos": "drop"}, Shared(0, evaluated(0), EVERY)),
        ({"pairs.strategy": "all_pairs"}, Shared(0, evaluated(0), EVERY)),
        ({"objective.name": "kto_pair"}, Shared(0, evaluated(0), EVERY)),  # examples of another kind
        ({"objective.name": "orpo"}, Shared(0, evaluated(0), EVERY)),  # no reference
        ({"objective.name": "ipo"}, Shared(0, evaluated(0), EVERY, True)),
        ({"train.beta": 0.5}, Shared(0, evaluated(0), EVERY, True)),
        ({"adam.lr": 1e-4, "train.max_epochs": 1}, Shared(0, evaluated(0), EVERY, True)),
        ({"train.reference": "initial"}, Shared(0, evaluated(0), EVERY)),  # sound, if more than is needed
        ({"sft.iterations": 1}, Shared(0, evaluated(0), EVERY)),
        ({"rollout.temperature": 1.0}, Shared()),
        ({"rollout.temperature": 1.0, "eval.temperature": 0.8}, Shared(0, evaluated(0))),
        ({"rollout.n_samples_per_prompt": 8}, Shared(0, evaluated(0))),
        ({"annotation.options": {"strict": True}}, Shared()),
        ({"eval.n_samples_per_prompt": 3}, Shared(0, (), EVERY, True)),
        ({"run.seed": 2}, Shared()),
        ({"run.iterations": 1}, Shared(1, evaluated(0, 1))),
        ({"run.iterations": 3}, Shared(2, evaluated(0, 1, 2))),
        ({"cluster.threads": 1, "train.micro_batch_size": 1}, Shared(2, evaluated(0, 1, 2))),
    ],
)
def test_what_is_shared(finished: Path, options: dict[str, Any], shared: Shared) -> None:
    assert forked(finished, "plain", options) == shared


def test_of_other_questions_those_that_both_have(finished: Path) -> None:
    """An experiment on the number of topics has answers to some of its questions already."""
    assert forked(finished, "plain", {}, ("a", "b", "z")) == Shared(0, evaluated(0), 2)


@pytest.mark.parametrize(
    ("options", "trained"),
    [({"train.beta": 0.5}, 1), ({"mask.policy": "vanilla"}, 1), ({"objective.name": "orpo"}, 1), ({"sft.lr": 1e-3}, 0)],
)
def test_fine_tuning_is_shared_unless_an_option_of_its_own_differs(
    finished: Path, options: dict[str, Any], trained: int
) -> None:
    assert forked(finished, "sft", {**SFT, **options}).trained == trained


@pytest.mark.parametrize(
    ("old", "options"),
    [
        ("plain", {"mask.policy": "vanilla"}),
        (
            "plain",
            {"mask.policy": {"chosen": LABELLED, "rejected": {**LABELLED, "contradictory": 0.0}}, "mask.eos": "keep"},
        ),
        ("plain", {"train.beta": 0.5}),
        ("plain", {"run.iterations": 3}),
        ("plain", {"run.iterations": 1}),
        ("plain", {"pairs.strategy": "all_pairs", "run.keep": "best"}),
        ("sft", {**SFT, "mask.policy": "vanilla"}),
    ],
)
def test_a_forked_run_is_the_run_alone(finished: Path, tmp_path: Path, old: str, options: dict[str, Any]) -> None:
    """Byte for byte; and what is shared is not done again."""
    runs = tmp_path / "shared" / "runs"
    shutil.copytree(finished, runs)
    shutil.copytree(finished.parent / "model", runs.parent / "model")
    alone, new = (beginning(config_of(tmp_path / place / "runs", "new", options)) for place in ("alone", "shared"))
    events = run(alone)
    shared = Fork(new, beginning(config_of(runs, old, SFT if old == "sft" else {}))).make()
    rest = run(new)
    assert results(new.path) == results(alone.path)
    again = {event for event in rest.of("answer") if event[2] <= shared.trained}
    assert again == (set(events.of("answer")) & again if shared.trained < new.config.run.iterations else set())
    assert not [event for event in again if event[1:3] in (("train", 0), ("evaluate-heldout", 0))]


def test_metrics_of_shared_stages_are_there_and_no_times(finished: Path) -> None:
    new = beginning(config_of(finished, "extended", {"run.iterations": 3}))
    Fork(new, beginning(config_of(finished, "plain", {}))).make()
    lines = [json.loads(line) for line in (new.path / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line}
    old = [json.loads(line) for line in (finished / "plain" / "metrics.jsonl").read_text().splitlines()]
    for group in ("train/", "eval/", "pairs/"):
        logged = {name for line in old for name in line if name.startswith(group)}
        assert logged and logged <= names, group
    assert not [name for name in names if name.startswith(("timing/", "total/", "tokens/", "idle/"))]
    shutil.rmtree(new.path)


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    names = (*ORDINARY, "failed/x")
    old, new = (
        beginning(config_of(tmp_path / "runs", name, {"run.max_failed": 1.0, "train.beta": beta}), names)
        for name, beta in (("old", 0.1), ("new", 0.5))
    )
    run(old)
    assert Fork(new, old).make() == Shared(0, evaluated(0), len(ORDINARY))  # its examples may be others
    assert ("answer", "train", 0, "failed/x") in run(new)


def test_answers_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    """A failing arm's answers are as good as another's."""
    old, new = (
        beginning(config_of(tmp_path / "runs", name, {"mask.policy": mask}))
        for name, mask in (("old", "mask_dpo"), ("new", "vanilla"))
    )
    events = Events(stop_at=20)
    with pytest.raises(Stopped):
        run(old, events)
    labelled = events.of("label")[4:]  # behind the evaluations
    shared = Fork(new, old).make()
    assert shared.evaluations == evaluated(0) and 0 < shared.answers <= len(labelled)
    asked = [event[3] for event in run(new).of("answer") if event[1:3] == ("train", 0)]
    assert len(asked) == EVERY - shared.answers


def test_nothing_is_half_done(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped wherever a stage is taken over, the folder isn't there; the next try makes it."""
    new, old = (
        beginning(config_of(finished, "half", {"run.iterations": 3})),
        beginning(config_of(finished, "plain", {})),
    )
    whole = files.prove
    for stop_at in range(0, 12, 3):
        calls = iter(range(stop_at + 1))

        def prove(*given: Any, calls: Any = calls) -> Any:
            if next(calls, None) is None:
                raise Stopped
            return whole(*given)

        monkeypatch.setattr(files, "prove", prove)
        with pytest.raises(Stopped):
            Fork(new, old).make()
        assert not new.path.exists()
    monkeypatch.undo()
    assert Fork(new, old).make().trained == 2 and new.path.exists()
    assert not list(finished.glob(".*"))
    shutil.rmtree(new.path)


@pytest.mark.parametrize(
    "name", ["eval_000/heldout.json", "iter_000/policy/model.safetensors", "iter_000/questions.jsonl"]
)
def test_damage_is_named(finished: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished / "plain", tmp_path / "runs" / "plain")
    shutil.copytree(finished.parent / "model", tmp_path / "model")
    file = tmp_path / "runs" / "plain" / name
    content = file.read_bytes()
    file.write_bytes(
        bytes([content[0] ^ 1]) + content[1:] if file.suffix != ".jsonl" else content.replace(b"a", b"b", 1)
    )
    new, old = (beginning(config_of(tmp_path / "runs", each, {})) for each in ("new", "plain"))
    with pytest.raises(RunFolderError, match=f"{name}.*changed after"):
        Fork(new, old).make()
    assert not new.path.exists()


def test_another_model_shares_nothing(finished: Path) -> None:
    old = beginning(config_of(finished, "plain", {}))
    new = beginning(config_of(finished, "new", {}))
    other = fork.Policy(0, new.initial.path, "0" * 64)
    assert Fork(fork.replace(new, initial=other), old).shared().is_empty


def test_the_best_sibling_is_the_one_that_shares_most(finished: Path) -> None:
    old = [beginning(config_of(finished, name, SFT if name == "sft" else {})) for name in ("plain", "sft", "absent")]
    chosen = fork.best(beginning(config_of(finished, "new", {**SFT, "train.beta": 0.5})), old)
    assert chosen is not None and chosen[0].old.path.name == "sft"
    assert fork.best(beginning(config_of(finished, "new", {"run.seed": 7})), old) is None
