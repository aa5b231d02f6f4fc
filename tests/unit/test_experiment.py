"""The grid over fakes: order, sharing, a failing arm, kills, and the table that is left."""

from __future__ import annotations

import json
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_arms import OPTIONS, beginning, results
from fake_arms import run as run_fakes
from fakes import Events, Stopped

from maskdpo_ray import experiment as command
from maskdpo_ray.config import cli
from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.config.experiment import ArmRun, Experiment
from maskdpo_ray.errors import ConfigError, RunFolderError
from maskdpo_ray.experiment import Grid
from maskdpo_ray.report.experiments import written
from maskdpo_ray.report.experiments.table import METRICS

pytestmark = pytest.mark.usefixtures("no_fsync")
ROOT = Path(__file__).parents[2]
ARMS = {"masked": {}, "unmasked": {"mask.policy": "vanilla"}, "ipo": {"objective": {"name": "ipo"}}}
FILE: dict[str, Any] = {
    "base": "base.yaml",
    "options": {"run.iterations": 1},
    "seeds": [1, 2],
    "arms": ARMS,
    "baseline": "unmasked",
    "paper": {"masked": {"table": "table 2", "score": 0.7753}, "unmasked": {"table": "table 2", "score": 0.6844}},
    "direction": {"above": "masked", "below": "unmasked", "metric": "score"},
}


def experiment_in(folder: Path, name: str = "mask", **changes: Any) -> Experiment:
    """The experiment `mask`, or of another name, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sections: dict[str, dict[str, Any]] = {"model": {"model_name_or_path": str(folder / "experiments/mask/model")}}
    for dotted, value in OPTIONS.items():
        section, option = dotted.split(".")
        sections.setdefault(section, {})[option] = value
    (folder / "base.yaml").write_text(yaml.safe_dump(sections))
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**FILE, **changes}, sort_keys=False))
    return experiment_file.read(folder / f"{name}.yaml", folder / "experiments", tuple(METRICS))


def grid_of(
    experiment: Experiment,
    events: Callable[[ArmRun], Events] = lambda run: Events(),
    fails: tuple[str, ...] = (),
    others: tuple[Experiment, ...] = (),
) -> Grid:
    """The grid over fakes; runs of arms in `fails` end with exit code 3 before they begin."""
    begun = [beginning(run.config) for run in experiment.runs]
    by_name = {each.config.run.name: each for each in begun}

    def start(run: ArmRun, folder: Path) -> int:
        assert folder == experiment.folder
        if run.arm in fails:
            return 3
        run_fakes(by_name[run.name], events(run))
        return 0

    return Grid(experiment, begun, start, [beginning(run.config) for other in others for run in other.runs])


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables alone: pictures take most of the time."""
    monkeypatch.setattr(written, "pictures", lambda table: {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> tuple[Experiment, list[str], str]:
    """An undisturbed experiment, the names of its runs in the order in which they ran, and what it printed."""
    experiment = experiment_in(tmp_path_factory.mktemp("whole"))
    order: list[str] = []

    def events(run: ArmRun) -> Events:
        order.append(run.name)
        return Events()

    grid = grid_of(experiment, events)
    assert grid.run() == {}
    grid.finish({})
    return experiment, order, grid.describe()


def table(experiment: Experiment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((experiment.folder / "table.json").read_text())
    return found


def test_runs_by_seed_and_what_is_left_in_the_folder(whole: tuple[Experiment, list[str], str]) -> None:
    experiment, order, described = whole
    assert order == [f"{arm}-seed{seed}" for seed in (1, 2) for arm in ARMS]
    names = {path.name for path in experiment.folder.iterdir()}
    assert {"runs", "table.md", "table.csv", "table.json", "score.png", "score.svg", "score-difference.svg"} <= names
    assert {"report.html", "made.json", "experiment.yaml"} <= names
    assert (
        "  arm masked: mask.policy mask_dpo\n" in described and "  runs: 6, one after another; 6 finished" in described
    )
    assert "  arm ipo: mask.policy mask_dpo, objective.name ipo\n" in described
    assert (experiment.folder / "score.svg").read_text().startswith("<?xml")


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_experiment_runs_nothing_again(whole: tuple[Experiment, list[str], str]) -> None:
    def never(run: ArmRun, folder: Path) -> int:
        raise AssertionError(run.name)

    experiment = whole[0]
    before = table(experiment)
    grid = Grid(experiment, [beginning(run.config) for run in experiment.runs], never)
    assert grid.run() == {}
    grid.finish({})
    assert table(experiment) == before


def test_each_run_is_what_it_is_alone(whole: tuple[Experiment, list[str], str], tmp_path: Path) -> None:
    """Whatever its siblings left it, it is the run of the same config in an empty folder."""
    alone = experiment_in(tmp_path)
    for run, same in zip(whole[0].runs, alone.runs, strict=True):
        if run.seed == 2:
            begun = beginning(same.config)
            run_fakes(begun)
            assert results(begun.path) == results(whole[0].folder / "runs" / run.name), run.name


def test_siblings_share_answers_and_the_start(whole: tuple[Experiment, list[str], str]) -> None:
    folder = whole[0].folder / "runs"
    asked = {}
    for name in ("masked-seed1", "unmasked-seed1", "ipo-seed1", "masked-seed2"):
        entries = [json.loads(text) for text in (folder / name / "ledger.jsonl").read_text().splitlines()]
        found = [entry["facts"] for entry in entries if entry["stage"] == "fork"]
        asked[name] = (found[0]["of"], found[0]["shared"]) if found else None
    both = "evaluation of policy 0, answers and labels of 8 questions of iteration 0"
    assert asked == {
        "masked-seed1": None,
        "unmasked-seed1": ("masked-seed1", both),
        "ipo-seed1": ("masked-seed1", f"{both}, reference log-probs"),
        "masked-seed2": None,
    }


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("seed", range(2))
def test_killed_three_times_it_ends_with_the_same_table(
    whole: tuple[Experiment, list[str], str], tmp_path: Path, seed: int
) -> None:
    experiment, rng = experiment_in(tmp_path), random.Random(seed)
    for _ in range(3):
        stopped = rng.choice([run.name for run in experiment.runs])
        at = rng.randrange(5, 40)

        def events(run: ArmRun, stopped: str = stopped, at: int = at) -> Events:
            return Events(at if run.name == stopped else None)

        try:
            grid_of(experiment, events).run()
        except Stopped:
            continue
    grid = grid_of(experiment)
    assert grid.run() == {}
    grid.finish({})
    assert table(experiment) == table(whole[0])
    assert (experiment.folder / "table.md").read_text() == (whole[0].folder / "table.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_failing_arm_takes_no_other_along(tmp_path: Path, whole: tuple[Experiment, list[str], str]) -> None:
    experiment = experiment_in(tmp_path)
    grid = grid_of(experiment, fails=("unmasked",))
    failed = grid.run()
    assert failed == {"unmasked-seed1": "exit code 3", "unmasked-seed2": "exit code 3"}
    with pytest.raises(
        RunFolderError, match="expected 6 finished runs, got 4; missing: unmasked-seed1, unmasked-seed2"
    ):
        grid.finish(failed)
    found = {arm["arm"]: arm for arm in table(experiment)["arms"]}
    assert found["unmasked"]["missing"] == {"1": "exit code 3", "2": "exit code 3"} and not found["unmasked"]["figures"]
    expected = {arm["arm"]: arm for arm in table(whole[0])["arms"]}["masked"]["figures"]["score"]["after"]
    assert found["masked"]["figures"]["score"]["after"] == expected
    (direction,) = table(experiment)["directions"]
    assert direction["holds"] is None and "no finished run of unmasked: nothing can be said" in direction["sentence"]
    assert "- unmasked, seed 1: exit code 3" in (experiment.folder / "table.md").read_text()
    retried = grid_of(experiment)
    assert retried.run() == {}
    retried.finish({})
    assert table(experiment) == table(whole[0])


def test_what_an_error_log_says_is_why(tmp_path: Path) -> None:
    (tmp_path / "error.log").write_text("Traceback ...\nmaskdpo_ray.errors.ClusterError: rollout engine 0: it died\n")
    assert command._why(tmp_path, 2) == "maskdpo_ray.errors.ClusterError: rollout engine 0: it died"
    assert command._why(tmp_path / "none", -9) == "ended by signal 9"


def test_progress_says_how_long_it_takes(
    whole: tuple[Experiment, list[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the seconds of the same arm's runs, else by those of all."""
    experiment = whole[0]
    grid = grid_of(experiment)
    finished = {"masked-seed1": 600.0, "unmasked-seed1": 300.0, "ipo-seed1": 300.0}
    monkeypatch.setattr(command, "_worked", lambda begun: finished[begun.path.name])
    monkeypatch.setattr(command, "is_finished", lambda begun: begun.path.name in finished)
    grid._say(4, experiment.runs[3], 1)
    said = capsys.readouterr().err
    assert said.endswith(
        "experiment mask: 3 of 6 runs finished, 1 failed, about 20 min left; now masked-seed2 (4 of 6)\n"
    )


def test_a_model_that_another_arm_makes_is_there_later(
    bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checks take the initial policy in its place; the run's own config has its folder. Nothing is written."""
    text = f"base: {ROOT}/configs/smoke.yaml\nseeds: [1]\narms: {{a: , b: {{mask.oracle: 'arm:a'}}}}\n"
    (tmp_path / "sepo.yaml").write_text(text)
    monkeypatch.chdir(ROOT)
    found = experiment_file.read(tmp_path / "sepo.yaml", tmp_path, tuple(METRICS))
    folder = tmp_path / "sepo" / "runs" / "a-seed1" / "policy"
    assert [each.config.mask.oracle for each in command.check(found, dry_run=True)] == [None, str(folder)]
    command.main([str(tmp_path / "sepo.yaml"), "--dir", str(tmp_path), "--dry_run"])
    said = capsys.readouterr().out
    assert f"  arm b: mask.oracle {folder}\n" in said and " 0 finished" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sepo.yaml"]


def test_arms_with_other_held_out_questions_are_refused(
    bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"base: {ROOT}/configs/smoke.yaml\nseeds: [1]\narms: {{a: , b: {{data.split_seed: 2}}}}\n"
    (tmp_path / "mask.yaml").write_text(text)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="mask.yaml: arms.b: expected the heldout questions of arm a"):
        command.main([str(tmp_path / "mask.yaml"), "--dir", str(tmp_path), "--dry_run"])


def test_a_fault_of_an_arm_is_found_before_anything_starts(
    bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"base: {ROOT}/configs/smoke.yaml\nseeds: [1]\narms:\n  a:\n  b: {{pairs.score: scor}}\n"
    (tmp_path / "mask.yaml").write_text(text)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"mask.yaml:5: pairs.score: expected one of .*; got 'scor'"):
        command.main([str(tmp_path / "mask.yaml"), "--dir", str(tmp_path), "--dry_run"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.yaml"]


TWO: dict[str, Any] = {"seeds": [1], "baseline": "unmasked"}


@pytest.mark.usefixtures("no_pictures")
def test_experiments_share_with_each_other(
    tmp_path: Path, whole: tuple[Experiment, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm that another experiment has run is not trained again, and comes to the same results as alone."""
    first = experiment_in(tmp_path, **TWO)
    arms = {"ipo": ARMS["ipo"], "unmasked": ARMS["unmasked"]}
    claim = {"above": "ipo", "below": "unmasked", "metric": "score"}
    second = experiment_in(tmp_path, "other", arms=arms, paper={"ipo": FILE["paper"]["masked"]}, direction=claim, **TWO)
    seen: dict[str, Events] = {}

    def events(run: ArmRun) -> Events:
        return seen.setdefault(f"{run.config.run.dir}/{run.name}", Events())

    command.run_all([grid_of(first, events, others=(second,)), grid_of(second, events, others=(first,))])
    trained = [name.rpartition("/")[2] for name, found in seen.items() if found.of("step")]
    assert trained == ["masked-seed1", "unmasked-seed1", "ipo-seed1"]  # each once
    said = capsys.readouterr().err
    assert "experiment other: unmasked-seed1 takes over from ../../mask/runs/unmasked-seed1: policy 1 with all" in said
    for name in arms:
        here, alone = (each.folder / "runs" / f"{name}-seed1" for each in (second, whole[0]))
        assert results(here) == results(alone)


@pytest.mark.usefixtures("no_pictures")
def test_an_experiment_with_a_missing_run_does_not_stop_the_next(tmp_path: Path) -> None:
    first, second = experiment_in(tmp_path, **TWO), experiment_in(tmp_path, "other", **TWO)
    with pytest.raises(RunFolderError, match="mask: expected 3 finished runs, got 2; missing: ipo-seed1"):
        command.run_all([grid_of(first, fails=("ipo",)), grid_of(second)])
    assert {arm["arm"] for arm in table(second)["arms"]} == set(ARMS)


def test_two_experiments_of_a_name_are_refused(tmp_path: Path) -> None:
    """They would write one folder."""
    for folder in "ab":
        experiment_in(tmp_path / folder)
    with pytest.raises(
        ConfigError, match="expected experiments of different names.*; got .*/a/mask.yaml and .*/b/mask.yaml"
    ):
        command.main([str(tmp_path / "a/mask.yaml"), str(tmp_path / "b/mask.yaml"), "--dir", str(tmp_path)])


@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_sibling_is_no_reason_not_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = experiment_in(tmp_path, seeds=[1], arms={"masked": {}, "unmasked": {"mask.policy": "vanilla"}})
    run_fakes(beginning(experiment.runs[0].config))
    file = experiment.folder / "runs" / "masked-seed1" / "iter_000" / "questions.jsonl"
    file.write_bytes(file.read_bytes().replace(b"right", b"wrong", 1))
    assert grid_of(experiment).run() == {}
    said = capsys.readouterr().err
    assert "experiment mask: unmasked-seed1 takes over nothing: " in said and "changed after a stage was built" in said


def script(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script stand for Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))


def test_a_run_is_a_process_with_its_own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment_in(tmp_path).runs[1]
    script(tmp_path, f'echo "$@" > {tmp_path}/said; exit 7', monkeypatch)
    assert command.start(run, tmp_path / "mask") == 7
    config = tmp_path / "mask" / "configs" / "unmasked-seed1.yaml"
    assert (tmp_path / "said").read_text() == f"-m maskdpo_ray.run --config {config}\n"
    assert cli.read(config) == run.config


def test_a_stop_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a SIGTERM, and time to end in order."""
    trap = f'trap "echo ended > {tmp_path}/said; exit 0" TERM'
    script(tmp_path, f"{trap}\ntouch {tmp_path}/ready\nwhile :; do sleep 0.05; done", monkeypatch)

    def interrupt(number: int, frame: Any) -> None:
        names = {each.name for each in traceback.extract_stack(frame)}
        if (tmp_path / "ready").exists() and "wait" in names:  # not amid the start of the process
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            command.start(experiment_in(tmp_path).runs[0], tmp_path / "mask")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "said").read_text() == "ended\n"
