"""Run folder: what survives kills and power losses, who may write, what may change."""

import copy
import errno
import json
import math
import os

import fakes
import pytest
import yaml

from maskdpo_ray.config.file import flatten
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import Annotation, PreferencePair, Rollout, ScoredAnswer, Sentence
from maskdpo_ray.store.fingerprint import versions
from maskdpo_ray.store.run_folder import RunFolder

CONFIG = {
    "run": {"name": "r", "dir": "runs", "seed": 1},
    "train": {"beta": 0.1},
    "adam": {"betas": (0.9, 0.95)},
    "mask": {"policy": {"chosen": {"no_fact": 1.0}}},
    "logger": {"wandb_mode": "disabled"},
    "cluster": {"address": None},
}
VERSIONS = {"torch": "2"}


def answer(question_id, sample=0):
    text = f"It is Kigali.\nThe capital\u2028of {question_id} 卢旺达."
    return (
        Rollout(question_id, sample, (1, 2, 3), text, "stop", 0),
        Annotation(question_id, sample, (Sentence(0, 13, "no_hallucination", 0.9, "capital: Kigali", "capital"),)),
    )


def unit(question_id):
    """(rollouts, annotations, pair or drop reason) of a question; every third gives no pair."""
    answers = [answer(question_id, sample) for sample in range(2)]
    pair = PreferencePair(question_id, "topic", (7, 8), *(ScoredAnswer(*a, 0.5) for a in answers), 0)
    return ([a[0] for a in answers], [a[1] for a in answers], "same_score" if question_id.endswith("2") else pair)


def open_folder(path, config=CONFIG):
    return RunFolder.open(path, config, VERSIONS)


def fill(folder, count, iteration=0):
    for number in range(count):
        question_id = f"q{number}"
        if question_id not in folder.questions(iteration).question_ids:
            folder.questions(iteration).commit(fakes.committed(question_id, *unit(question_id)))


def log_of(path, iteration=0):
    return path / f"iter_{iteration:03d}" / "questions.jsonl"


def test_round_trip_and_resume(tmp_path):
    path = tmp_path / "runs" / "r"
    with open_folder(path) as folder:
        assert not folder.resumed and folder.questions(0).question_ids == frozenset()
        fill(folder, 4)
        folder.evaluated(1, "heldout").commit(fakes.committed("q9", *unit("q9")[:2]))
    with open_folder(path) as folder:
        assert folder.resumed and folder.notes == []
        assert folder.questions(0).question_ids == {"q0", "q1", "q2", "q3"}
        assert folder.questions(1).question_ids == frozenset()
        assert list(folder.questions(0).pairs()) == [(0, unit(q)[2]) for q in ("q0", "q1", "q3")]
        assert folder.questions(0).drops() == {"same_score": 1}
        assert folder.evaluated(1, "heldout").question_ids == {"q9"}
        assert folder.evaluated(1, "transfer").question_ids == frozenset()
        assert list(folder.evaluated(1, "heldout").answers()) == [answer("q9", 0), answer("q9", 1)]
    assert all(json.loads(line) for file in path.rglob("*.jsonl") for line in file.read_bytes().split(b"\n")[:-1])
    first, _, third, _ = map(json.loads, log_of(path).read_bytes().split(b"\n")[:-1])
    assert first["pairs"] == [{
        "topic": "topic", "prompt_token_ids": [7, 8],
        "chosen": 0, "chosen_score": 0.5, "rejected": 1, "rejected_score": 0.5,
    }]  # fmt: skip
    assert (first["drops"], third["drops"], third["pairs"], len(third["rollouts"])) == ([], ["same_score"], [], 2)


def test_two_writers_are_refused_and_close_lets_go(tmp_path):
    first = open_folder(tmp_path / "r")
    with pytest.raises(RunFolderError, match=f"process {os.getpid()} on"):
        open_folder(tmp_path / "r")
    first.close()
    first.close()
    open_folder(tmp_path / "r").close()


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "beta", 0.2, r"train.beta: expected 0.1, .*got 0.2"),
        ("train", "new", 3, r"train.new: expected '\(absent\)', .*got 3"),
        ("run", "seed", 2, "run.seed: expected 1, .*got 2"),
        ("mask", "policy", {"chosen": {"no_fact": 0.5}}, "mask.policy.chosen.no_fact: expected 1.0, .*got 0.5"),
        ("adam", "betas", (0.9, 0.99), "adam.betas"),
    ],
)
def test_a_changed_config_is_refused_and_leaves_the_folder_alone(tmp_path, section, field, value, message):
    with open_folder(tmp_path / "r") as folder:
        folder.finish("reference", 0)
    config = copy.deepcopy(CONFIG)
    config[section][field] = value
    for attempt in (open_folder, RunFolder.check):
        with pytest.raises(RunFolderError, match=message) as caught:
            attempt(tmp_path / "r", config)
        assert "\n" not in str(caught.value)
    RunFolder.check(tmp_path / "r", CONFIG)
    with open_folder(tmp_path / "r") as folder:
        assert folder.resumed


def test_a_run_that_has_done_nothing_takes_another_config(tmp_path):
    open_folder(tmp_path / "r").close()
    config = copy.deepcopy(CONFIG)
    config["train"]["beta"] = 0.2
    RunFolder.check(tmp_path / "r", config)
    open_folder(tmp_path / "r", config).close()
    assert flatten(yaml.safe_load((tmp_path / "r/config.yaml").read_text()))["train.beta"] == 0.2


def test_where_it_runs_may_change_and_is_kept(tmp_path):
    open_folder(tmp_path / "r").close()
    config = copy.deepcopy(CONFIG)
    config["logger"]["wandb_mode"], config["cluster"]["address"], config["run"]["dir"] = (
        "offline",
        "auto",
        "/elsewhere",
    )
    open_folder(tmp_path / "r", config).close()
    text = (tmp_path / "r" / "config.yaml").read_text()
    assert "# torch: 2\n" in text
    assert flatten(yaml.safe_load(text)) == {**flatten(config), "adam.betas": [0.9, 0.95]}
    opened = json.loads((tmp_path / "r" / "ledger.jsonl").read_text().splitlines()[-1])
    assert opened["changed"] == {
        "logger.wandb_mode": ["disabled", "offline"],
        "cluster.address": [None, "auto"],
        "run.dir": ["runs", "/elsewhere"],
    }
    assert opened["versions"] == VERSIONS


def test_finished_stages_and_their_files(tmp_path, monkeypatch):
    path = tmp_path / "r"
    monkeypatch.chdir(tmp_path)
    with RunFolder.open("r", CONFIG, VERSIONS) as folder:  # a relative path, and files named relative and absolute
        assert folder.finished("train", 0) is None
        policy = folder.policy_dir(0)
        policy.mkdir()
        (policy / "model.safetensors").write_bytes(b"weights")
        folder.write_json("eval_001/heldout.json", {"score": 0.5})
        folder.finish("train", 0, [policy, "eval_001/heldout.json"], checksum="abc", steps=7)
    with open_folder(path) as folder:
        assert folder.finished("train", 0) == {"checksum": "abc", "steps": 7}
        assert folder.finished("train", 1) is None and folder.finished("evaluate", 0) is None
        folder.check_files("train", 0)
        assert folder.policy_dir(0) == path / "iter_000" / "policy"
        (path / "iter_000/policy/model.safetensors").write_bytes(b"weighty")
        with pytest.raises(RunFolderError, match="model.safetensors: changed after stage 'train'"):
            folder.check_files("train", 0)
        (path / "iter_000/policy/model.safetensors").unlink()
        with pytest.raises(
            RunFolderError, match="model.safetensors: expected the file that stage 'train' left, got none"
        ):
            folder.check_files("train", 0)
        with pytest.raises(RunFolderError, match="nowhere"):
            folder.finish("train", 1, ["nowhere"])
        assert folder.finished("train", 1) is None


def test_more_questions_after_a_finished_stage(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        folder.finish("other", 0)
        fill(folder, 3)
        assert len(os.listdir("/proc/self/fd")) < 200
    with open_folder(tmp_path / "r") as folder:
        assert len(folder.questions(0).question_ids) == 3


def test_json_files_are_replaced_whole(tmp_path, monkeypatch):
    with open_folder(tmp_path / "r") as folder:
        value = Sentence(0, 1, "no_fact", 0.5)
        target = folder.write_json("eval_000/heldout.json", value)
        with pytest.raises(ValueError):
            folder.write_json("eval_000/heldout.json", {"score": math.nan})

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError, match="heldout.json: can't be written: No space left"):
            folder.write_json("eval_000/heldout.json", {"score": 0.7})
        monkeypatch.undo()
        assert json.loads(target.read_text())["confidence"] == 0.5
        assert folder.read_json("eval_000/heldout.json", Sentence) == value


def test_versions_name_what_decides_the_figures():
    found = versions()
    assert found["torch"] and found["transformers"]
