"""One run from start to summary, on real engines and ranks; and the same run stopped, killed and resumed.

Five launches on a tiny model: undisturbed, with a judge and a second evaluator; interrupted while it answers;
terminated while it trains; resumed, with its engine killed; and the last policy's answers evaluated against the start.
The nightly tier has the first and the last one on a model that speaks, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fake_hub
import psutil
import pytest
import torch
import yaml
from driver import REPOSITORY, Driver, describe, family
from finished_run import SMALLEST, Run, arguments, finish

from maskdpo_ray.records import LABELS

# The fixtures' runs count towards the test that first asks for them.
pytestmark = pytest.mark.timeout(2400)
ITERATIONS = (0, 1)
VERSIONS = (0, 1, 2)
SPLITS = ("heldout", "transfer")
K, R = 4, 2
STOP_TIMEOUT_S = 30.0
EVALUATE = (sys.executable, "-m", "maskdpo_ray.evaluate")


@dataclass(frozen=True)
class Told:
    """A run that has ended, its config file, and the folder of the model that it began with."""

    run: Run
    config: Path
    model: Path


def tell(name: str, config: Path) -> Told:
    """Two iterations of Mask-DPO on a local Ray cluster, with W&B on disk."""
    folder = config.parent / name
    with Driver(arguments(folder, config, logger__wandb_mode="offline"), folder.with_suffix(".log")) as driver:
        driver.wait_for(lambda: (folder / "eval_000" / "heldout.json").exists())
        listening = frozenset(driver.listening())
        run = dataclasses.replace(finish(driver, folder), listening=listening)
    assert run.code == 0, run.output
    return Told(run, config, Path(yaml.safe_load(config.read_text())["model"]["model_name_or_path"]))


@pytest.fixture(scope="session")
def undisturbed(story: Path) -> Told:
    """On the model of letters."""
    return tell("undisturbed", story)


@pytest.fixture(scope="module", params=["letters", pytest.param("smollm2", marks=pytest.mark.nightly)])
def told(request: pytest.FixtureRequest) -> Told:
    """On the model of letters, and on one that speaks."""
    if request.param == "letters":
        return request.getfixturevalue("undisturbed")
    return tell("masked", request.getfixturevalue("smallest"))


@pytest.fixture
def run(told: Told) -> Run:
    return told.run


def call(options: list[str], log: Path) -> tuple[int, str, float]:
    """(exit code, output, seconds) of a command that should start nothing."""
    start = time.monotonic()
    with Driver(options, log) as driver:
        code = driver.wait(120)
        return code, driver.output, time.monotonic() - start


def answers_by_question(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        grouped.setdefault(line["question_id"], []).append(line)
    return grouped


def is_in_order(rollouts: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bool:
    return [(r["question_id"], r["sample"]) for r in rollouts] == [(a["question_id"], a["sample"]) for a in annotations]


def test_it_ends_well_and_leaves_no_process(run: Run) -> None:
    assert run.left == []
    assert "Traceback" not in run.output
    assert "heldout" in run.output
    assert not (run.folder / "error.log").exists()


def test_ray_listens_to_this_machine_only(run: Run) -> None:
    """Whoever reaches Ray's ports runs code here."""
    names = {name for name, _ in run.listening}
    assert {"gcs_server", "raylet"} <= names
    # The ranks' store is torch's, and takes no code; it binds to every address.
    rays = {(name, ip) for name, ip in run.listening if not name.startswith("ray::TrainingRa")}
    assert {ip for _, ip in rays} <= {"127.0.0.1", "::1"}, rays


def test_every_file_is_there(run: Run) -> None:
    expected = {"config.yaml", "ledger.jsonl", "metrics.jsonl", "summary.json"}
    for iteration in ITERATIONS:
        names = (
            "questions.jsonl",
            "pairs-summary.json",
            "reference-logps.safetensors",
            "policy/config.json",
            "policy/model.safetensors",
            "policy/tokenizer.json",
            "policy/tokenizer_config.json",
            "policy/chat_template.jinja",
            "policy/README.md",
        )
        expected |= {f"iter_{iteration:03d}/{name}" for name in names}
    for version in VERSIONS:
        for split in SPLITS:
            names = [f"{split}.json", f"{split}-questions.jsonl"]
            expected |= {f"eval_{version:03d}/{name}" for name in names}
            expected |= {f"eval_{version:03d}/{split}-gain.json"} if version else set()
    assert {name for name in expected if not (run.folder / name).is_file()} == set()
    leftovers = [str(path) for path in run.folder.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    assert leftovers == []


def test_config_is_resolved(run: Run) -> None:
    text = (run.folder / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["run"]["name"] == run.folder.name and config["logger"]["wandb_mode"] == "offline"
    assert config["data"]["max_questions"] == SMALLEST["data.max_questions"]
    assert config["train"]["beta"] > 0 and config["rollout"]["top_k"] == 40  # defaults too
    assert "torch" in text and "ray" in text  # versions


@pytest.mark.parametrize("iteration", ITERATIONS)
def test_rollouts_annotations_and_pairs(run: Run, iteration: int) -> None:
    base = f"iter_{iteration:03d}"
    rollouts, annotations = (run.parts(f"{base}/", part) for part in ("rollouts", "annotations"))
    asked = run.lines(f"{base}/questions.jsonl")
    pairs = [(question["question_id"], pair) for question in asked for pair in question["pairs"]]
    grouped = answers_by_question(rollouts)
    assert len(grouped) == SMALLEST["data.max_questions"]
    assert all([r["sample"] for r in answers] == list(range(K)) for answers in grouped.values())
    assert {rollout["policy_version"] for rollout in rollouts} == {iteration}  # on-policy
    assert all(rollout["token_ids"] for rollout in rollouts)
    assert is_in_order(rollouts, annotations)
    for rollout, annotation in zip(rollouts, annotations, strict=True):
        for sentence in annotation["sentences"]:
            assert sentence["label"] in LABELS
            assert rollout["text"][sentence["start"] : sentence["end"]].strip()
    texts = {(r["question_id"], r["sample"]): r["text"] for r in rollouts}
    assert pairs
    for name, pair in pairs:
        assert pair["chosen_score"] > pair["rejected_score"]
        assert texts[name, pair["chosen"]] != texts[name, pair["rejected"]]
    assert all(bool(question["pairs"]) != bool(question["drops"]) for question in asked)  # one pair at most here
    summary = run.read(f"{base}/pairs-summary.json")
    assert summary["questions"] == len(grouped) == summary["pairs"] + sum(summary["drops"].values())
    assert summary["pairs"] == len(pairs)
    assert set(summary["mixture"]) == {"chosen_with_incorrect", "rejected_with_correct"}


def test_evaluations(run: Run) -> None:
    for version in VERSIONS:
        for split, topics in zip(SPLITS, ("data.num_eval_topics", "data.num_transfer_topics"), strict=True):
            base = f"eval_{version:03d}/{split}"
            rollouts = run.parts(f"{base}-", "rollouts")
            for part in ("annotations", "judgements"):
                assert is_in_order(rollouts, run.parts(f"{base}-", part))
            assert {rollout["policy_version"] for rollout in rollouts} == {version}
            assert {len(answers) for answers in answers_by_question(rollouts).values()} == {R}
            assert len(rollouts) == SMALLEST[topics] * R
            for name in (base, f"{base}-judged"):
                assert 0 <= run.read(f"{name}.json")["metrics"]["score"]["mean"] <= 1
    held = {r["question_id"] for r in run.lines("eval_000/heldout-questions.jsonl")}
    trained = {r["question_id"] for i in ITERATIONS for r in run.lines(f"iter_{i:03d}/questions.jsonl")}
    assert not held & trained


def test_metrics(run: Run) -> None:
    metrics = run.lines("metrics.jsonl")
    names = {name for line in metrics for name in line}
    expected = {
        "timing/start_s",
        "timing/collect_s",
        "timing/reference_s",
        "timing/train_s",
        "timing/sync_s",
        "timing/iteration_s",
        "timing/evaluate-heldout_s",
        "tokens/collect",
        "tokens/train",
        "idle/rollout",
        "idle/annotation",
        "idle/training",
        "idle/evaluation",
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "eval/heldout/score",
        "eval/heldout/gain",
        "eval/transfer/score",
        "pairs/count",
    }
    assert expected - names == set()
    steps = [line["step"] for line in metrics if "train/loss" in line]
    assert steps == list(range(len(steps)))  # on through the iterations
    sampled = [sum(len(r["token_ids"]) for r in run.parts(f"iter_{i:03d}/", "rollouts")) for i in ITERATIONS]
    assert [line["tokens/collect"] for line in metrics if "tokens/collect" in line] == sampled


def test_summary(run: Run) -> None:
    summary = run.read("summary.json")
    assert summary["run"] == run.folder.name
    assert {split: len(versions) for split, versions in summary["evaluations"].items()} == {"heldout": 3, "transfer": 3}
    assert (summary["kept"]["keep"], summary["kept"]["version"]) == ("last", VERSIONS[-1])
    assert os.readlink(run.folder / "policy") == f"iter_{ITERATIONS[-1]:03d}/policy"
    assert [pairs["iteration"] for pairs in summary["pairs"]] == list(ITERATIONS)
    assert any("the second evaluator, factscore," in remark for remark in summary["remarks"])


def test_ledger_names_what_is_on_disk(run: Run) -> None:
    finished = {}
    for entry in run.lines("ledger.jsonl"):
        if "finished" in entry:
            finished[entry["stage"], entry["iteration"]] = entry["files"]
    assert {("train", 0), ("train", 1), *(("evaluate-heldout", v) for v in VERSIONS)} <= set(finished)
    for files in finished.values():
        for name, proof in files.items():
            data = (run.folder / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (proof["bytes"], proof["sha256"])


def test_all_files_have_the_mode_of_a_new_one(run: Run, tmp_path: Path) -> None:
    """Files have the umask's mode, so policies load for every reader of the folder; W&B manages its own files."""
    (tmp_path / "new").touch()
    files = [file for file in run.folder.rglob("*") if file.is_file() and "wandb" not in file.parts]
    assert {file.stat().st_mode for file in files} == {(tmp_path / "new").stat().st_mode}


def test_policies_load_and_differ(told: Told) -> None:
    run = told.run
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [told.model, *(run.folder / f"iter_{i:03d}" / "policy" for i in ITERATIONS)]
    weights = []
    for folder in folders:
        model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert AutoTokenizer.from_pretrained(folder).chat_template
        weights.append(torch.cat([parameter.flatten().float() for parameter in model.parameters()]))
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert all(bool(torch.isfinite(values).all()) for values in weights)


def test_wandb_is_on_disk(run: Run) -> None:
    assert list((run.folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_again_says_finished(told: Told, runs_dir: Path) -> None:
    run = told.run
    before = {name: (run.folder / name).read_bytes() for name in ("summary.json", "iter_001/questions.jsonl")}
    code, output, seconds = call(arguments(run.folder, told.config), runs_dir / "again.log")
    assert code == 0 and "is finished" in output
    assert seconds < 60
    assert before == {name: (run.folder / name).read_bytes() for name in before}


def test_a_finished_run_is_uploaded(undisturbed: Told, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same command, again after a failure, and with nothing of the token in sight."""
    folder, secret = undisturbed.run.folder, "hf_NobodyMaySeeThis"
    command = arguments(folder, undisturbed.config, hub__push="org/own")
    with fake_hub.serving() as hub:
        hub.tokens[secret] = "org"
        for name, value in {"ENDPOINT": hub.url, "TOKEN": secret, "HUB_OFFLINE": "0", "HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(f"HF_{name}", value)
        hub.fails_at = "/commit/"
        code, failed, _ = call(command, runs_dir / "not-uploaded.log")
        assert code == 2 and f"python -m maskdpo_ray.run {shlex.join(command)}" in failed
        hub.fails_at = ""
        code, output, _ = call(command, runs_dir / "uploaded.log")
        assert code == 0 and f"uploaded {folder}/policy to {hub.url}/org/own/commit/" in output
        repository = hub.repositories["org/own"]
    assert repository.is_private
    assert repository.commits[repository.branches["main"]] == fake_hub.files_of(folder / "iter_001" / "policy")
    assert secret not in failed + output
    assert not any(secret.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_another_config_is_refused(told: Told, runs_dir: Path) -> None:
    code, output, _ = call(arguments(told.run.folder, told.config, train__beta=0.2), runs_dir / "refused.log")
    assert code == 2
    error = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and "train.beta" in error[0] and "0.2" in error[0]


def test_a_prompt_too_long_is_refused(story: Path, runs_dir: Path) -> None:
    """One line, whatever transformers prints when it is imported."""
    facts = {"table": "countries", "entity": "Rwanda"}
    question = {"id": "long", "prompt": "word " * 9000, "facts": facts, "document": "Rwanda: capital Kigali"}
    (runs_dir / "long.jsonl").write_text(json.dumps(question), encoding="utf-8")
    folder = runs_dir / "too-long"
    options = arguments(
        folder,
        story,
        data__transfer=runs_dir / "long.jsonl",
        data__num_transfer_topics=1,
        eval__perplexity_model="null",  # its context is checked before
    )
    code, output, _ = call(options, runs_dir / "too-long.log")
    assert code == 2
    assert output.startswith("error: question 'long': expected a prompt of at most ") and output.count("\n") == 1
    assert not folder.exists()


def test_dry_run_starts_nothing(story: Path, runs_dir: Path) -> None:
    folder, seen = runs_dir / "dry", set()
    with Driver(
        [*arguments(folder, story, train__num_ranks=2, cluster__cpus_per_rank=0.5), "--dry_run"], runs_dir / "dry.log"
    ) as driver:
        while driver.process.poll() is None:
            seen |= set(describe(driver.left()))
            time.sleep(0.02)
        assert driver.wait() == 0, driver.output
        output = driver.output
    assert [name for name in seen if any(word in name for word in ("raylet", "gcs_server", "ray::", "VLLM"))] == []
    assert not folder.exists()
    for part in ("rollout engines: 1", "training ranks: 2", "iterations: 2 of 6 questions"):
        assert part in output


def test_repository_is_untouched(run: Run) -> None:
    for place in ("runs", "wandb"):
        assert not (REPOSITORY / place / run.folder.name).exists()


def test_evaluated_against_the_start(told: Told, runs_dir: Path) -> None:
    """`evaluate` finds of the last policy's answers what the run found, and the same gain over the first policy."""
    last, answers = told.run.folder / "eval_002", runs_dir / f"{told.run.folder.name}-answers.jsonl"
    answers.write_text("".join((last / f"{split}-questions.jsonl").read_text() for split in SPLITS))
    folder = runs_dir / f"{told.run.folder.name}-evaluated"
    options = [str(answers), *arguments(folder, told.config), "--against", f"{told.run.folder}:0"]
    with Driver(options, folder.with_suffix(".log"), EVALUATE) as driver:
        given = finish(driver, folder)
    assert given.code == 0 and given.left == [] and "Traceback" not in given.output, given.output
    refuse_other_figures(given.folder / "eval_000", last)
    assert "rollout engines" not in given.output
    summary, of_run = given.read("summary.json"), told.run.read("summary.json")
    for split in SPLITS:
        gains = [each["evaluations"][split][-1]["gain"] for each in (summary, of_run)]
        assert gains[0] == gains[1] and gains[0] is not None
        written = json.loads((last / f"{split}-gain.json").read_text())
        assert written["metrics"] == gains[0]


def refuse_other_figures(ours: Path, theirs: Path) -> None:
    for name in (f"{split}{kind}.json" for split in SPLITS for kind in ("", "-judged")):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


@pytest.mark.nightly
def test_the_first_model_evaluated(told: Told, runs_dir: Path) -> None:
    """`evaluate` finds of the model that the run began with what the run found."""
    folder = runs_dir / f"{told.run.folder.name}-base"
    with Driver(arguments(folder, told.config), folder.with_suffix(".log"), EVALUATE) as driver:
        base = finish(driver, folder)
    assert base.code == 0 and base.left == [] and "Traceback" not in base.output, base.output
    refuse_other_figures(base.folder / "eval_000", told.run.folder / "eval_000")
    assert not list(base.folder.glob("iter_*")) and "training ranks" not in base.output


@dataclass
class Stopped:
    """Observations of one run that was stopped twice and lost an engine, up to its end."""

    codes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    """Answers on disk at each stop."""
    orphans: list[str] = field(default_factory=list)
    """vLLM processes that outlived their killed actor by more than a few seconds."""
    end: Run | None = None


def holds(file: Path, text: str) -> bool:
    return file.is_file() and text in file.read_text(encoding="utf-8")


def kill_engine(driver: Driver) -> list[str]:
    """SIGKILL the rollout actor alone; which of its vLLM processes are still there seconds later."""
    (actor,) = family(driver, "ray::RolloutEngine")
    children = actor.children(recursive=True)
    actor.kill()
    _, left = psutil.wait_procs(children, timeout=10)
    return describe(left)


@pytest.fixture(scope="module")
def stopped(undisturbed: Told, runs_dir: Path, story: Path) -> Stopped:
    """The run of `undisturbed`, stopped while it answers and while it trains, and deprived of its engine."""
    folder, seen = runs_dir / "stopped", Stopped()
    options = arguments(folder, story)
    log, metrics = folder / "iter_000" / "questions.jsonl", folder / "metrics.jsonl"

    def stop(name: str, number: signal.Signals, when: Callable[[], bool], all_at_once: bool = False) -> None:
        with Driver(options, runs_dir / f"stopped-{name}.log") as driver:
            driver.wait_for(when)
            start = time.monotonic()
            seen.codes[name] = driver.stop(number, STOP_TIMEOUT_S, all_at_once)
            seen.seconds[name] = time.monotonic() - start
            seen.left[name] = describe(driver.left())
            seen.outputs[name] = driver.output
        seen.committed[name] = len(log.read_text(encoding="utf-8").splitlines())

    stop("answering", signal.SIGINT, lambda: holds(log, "\n"))
    stop("training", signal.SIGTERM, lambda: holds(metrics, "train/loss"), all_at_once=True)
    with Driver(options, runs_dir / "stopped-end.log") as driver:
        driver.wait_for(lambda: holds(folder / "iter_001" / "questions.jsonl", "\n"))
        seen.orphans = kill_engine(driver)
        seen.end = finish(driver, folder)
    return seen


def test_stopped_in_time(stopped: Stopped) -> None:
    assert stopped.codes == {"answering": 130, "training": 143}
    assert max(stopped.seconds.values()) < STOP_TIMEOUT_S


def test_no_process_is_left(stopped: Stopped) -> None:
    assert stopped.left == {"answering": [], "training": []}


def test_it_was_in_the_middle(stopped: Stopped, undisturbed: Told) -> None:
    """Else the other tests say nothing."""
    total = len(undisturbed.run.lines("iter_000/questions.jsonl"))
    assert 0 < stopped.committed["answering"] < total == stopped.committed["training"]
    entries = stopped.end.lines("ledger.jsonl")
    assert [entry["stage"] for entry in entries].count("open") == 3
    trained = [
        i
        for i, entry in enumerate(entries)
        if "finished" in entry and (entry["stage"], entry["iteration"]) == ("train", 0)
    ]
    opened = [i for i, entry in enumerate(entries) if entry["stage"] == "open"]
    assert trained[0] > opened[2]


def test_a_stop_is_no_crash(stopped: Stopped) -> None:
    for output in stopped.outputs.values():
        assert "Traceback" not in output and "*** SIGTERM" not in output, output
        assert "the same command resumes from there" in output


@pytest.mark.parametrize("all_at_once", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_stopped_while_ray_starts(runs_dir: Path, story: Path, all_at_once: bool) -> None:
    """Ray has signal handlers of its own, and processes that nobody else would end."""
    name = f"early-{all_at_once}"
    with Driver(arguments(runs_dir / name, story), runs_dir / f"{name}.log") as driver:
        driver.wait_for(lambda: any("raylet/raylet" in each for each in describe(driver.left())))
        code = driver.stop(signal.SIGTERM, STOP_TIMEOUT_S, all_at_once)
        left = describe(driver.left())
    assert (code, left) == (143, []) and "Traceback" not in driver.output, driver.output


def test_vllm_ends_with_its_actor(stopped: Stopped) -> None:
    assert stopped.orphans == []


def test_it_resumes_and_ends_as_if_undisturbed(stopped: Stopped, undisturbed: Told) -> None:
    """Resumed as if nothing had happened: the same answers, labels, pairs and policies as the other run."""
    run = stopped.end
    assert run.code == 0, run.output
    assert run.left == []
    folders = ("iter_000/", "iter_001/", "eval_000/heldout-", "eval_001/heldout-")
    for name in [f"{folder}questions.jsonl" for folder in folders]:
        ours, theirs = ((each.folder / name).read_bytes() for each in (run, undisturbed.run))
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines()), name
    for iteration in (0, 1):
        ours, theirs = (
            (each.folder / f"iter_{iteration:03d}" / "policy" / "model.safetensors").read_bytes()
            for each in (run, undisturbed.run)
        )
        assert ours == theirs
