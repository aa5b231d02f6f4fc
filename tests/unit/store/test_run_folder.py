"""Run folder: what survives kills and power losses, who may write, what may change."""

import copy
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

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
PARTS = ("rollouts-000", "annotations-000", "pairs")


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
        if question_id not in folder.committed_questions(iteration):
            folder.commit_question(iteration, question_id, *unit(question_id))


def data_files(path):
    return {part: (path / "iter_000" / f"{part}.jsonl").read_bytes() for part in PARTS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with four questions and the sizes of its files after three of them."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with open_folder(path) as folder:
        fill(folder, 3)
        before = {name: file.stat().st_size for name, file in _files(path).items()}
        fill(folder, 4)
    return path, before


def _files(path):
    return {**{part: path / "iter_000" / f"{part}.jsonl" for part in PARTS}, "ledger": path / "ledger.jsonl"}


def test_round_trip_and_resume(tmp_path):
    path = tmp_path / "runs" / "r"
    with open_folder(path) as folder:
        assert not folder.resumed and folder.committed_questions(0) == frozenset()
        fill(folder, 4)
        folder.commit_answers(1, "heldout", "q9", *unit("q9")[:2])
    with open_folder(path) as folder:
        assert folder.resumed and folder.notes == []
        assert folder.committed_questions(0) == {"q0", "q1", "q2", "q3"}
        assert folder.committed_questions(1) == frozenset()
        assert list(folder.pairs(0)) == [unit(q)[2] for q in ("q0", "q1", "q3")]
        assert folder.drops(0) == {"same_score": 1}
        assert folder.committed_answers(1, "heldout") == {"q9"}
        assert folder.committed_answers(1, "transfer") == frozenset()
        assert list(folder.answers(1, "heldout")) == [answer("q9", 0), answer("q9", 1)]
    assert all(json.loads(line) for file in path.rglob("*.jsonl") for line in file.read_bytes().split(b"\n")[:-1])
    assert len((path / "iter_000/rollouts-000.jsonl").read_bytes().split(b"\n")[:-1]) == 8


def test_committing_twice_or_the_wrong_answers_is_an_error(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        rollouts, annotations, pair = unit("q1")
        for question_id, parts, message in [
            ("q0", unit("q0"), "committed already"),
            ("q1", (rollouts, annotations[:1], pair), "not of the same answers"),
            ("q1", unit("q3"), "rollout of another question"),
            ("q1", (rollouts, annotations, unit("q3")[2]), "pair of question 'q3'"),
        ]:
            with pytest.raises(ValueError, match=message):
                folder.commit_question(0, question_id, *parts)
        assert folder.committed_questions(0) == {"q0"}


def test_one_fsync_per_question(tmp_path, monkeypatch):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        calls, real = [], os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(fd), real(fd)))
        fill(folder, 3)
        assert len(calls) == 2


@given(share=st.floats(0, 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_kill_at_any_byte_of_a_commit_costs_that_question_only(whole, tmp_path_factory, share):
    original, before = whole
    path = tmp_path_factory.mktemp("kill") / "run"
    shutil.copytree(original, path)
    added = {name: file.stat().st_size - before[name] for name, file in _files(path).items()}
    written = left = round(share * sum(added.values()))
    for name, file in _files(path).items():  # in the order of writing, the ledger last
        os.truncate(file, before[name] + min(left, added[name]))
        left -= min(left, added[name])
    with open_folder(path) as folder:
        complete = written == sum(added.values())
        assert folder.committed_questions(0) == {"q0", "q1", "q2"} | ({"q3"} if complete else set())
        assert bool(folder.notes) == (0 < written < sum(added.values()))
        fill(folder, 4)
    assert data_files(path) == data_files(original)
    shutil.rmtree(path)


@given(name=st.sampled_from(PARTS), share=st.floats(0, 1), zeros=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_power_loss_leaves_the_longest_whole_beginning(whole, tmp_path_factory, name, share, zeros):
    original, _ = whole
    path = tmp_path_factory.mktemp("power") / "run"
    shutil.copytree(original, path)
    file = _files(path)[name]
    size = file.stat().st_size
    kept = round(share * size)
    os.truncate(file, kept)
    if zeros:
        os.truncate(file, size)  # a file system may give the size back and not the bytes
    with open_folder(path) as folder:
        committed = sorted(folder.committed_questions(0))
        assert committed == [f"q{i}" for i in range(len(committed))]
        assert len(committed) == 4 or kept < size
        assert [pair.question_id for pair in folder.pairs(0)] == [q for q in committed if q != "q2"]
        fill(folder, 4)
    assert data_files(path) == data_files(original)
    with open_folder(path) as folder:
        assert folder.notes == [] and len(folder.committed_questions(0)) == 4
    shutil.rmtree(path)


def test_changed_bytes_under_a_finished_stage_are_an_error(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        fill(folder, 3)
        folder.finish("reference", 0)
    file = path / "iter_000" / "pairs.jsonl"
    file.write_bytes(file.read_bytes().replace(b"Kigali", b"Nairob", 1))
    with open_folder(path) as folder, pytest.raises(RunFolderError, match="question 'q0' changed after a stage"):
        folder.pairs(0)


def test_a_damaged_ledger_line_in_the_middle_is_an_error(whole, tmp_path):
    path = tmp_path / "r"
    shutil.copytree(whole[0], path)
    lines = (path / "ledger.jsonl").read_bytes().split(b"\n")
    lines[2] = lines[2][:-5]
    (path / "ledger.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(RunFolderError, match=r"ledger.jsonl, line 3: expected a JSON object"):
        open_folder(path)


CHILD = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
from test_run_folder import open_folder, unit
folder = open_folder({path!r})
for number in range(10**6):
    folder.commit_question(0, f"q{{number}}", *unit(f"q{{number}}"))
    print(number, flush=True)
"""


def test_sigkill_in_the_middle_loses_no_committed_question(tmp_path):
    here = os.path.dirname(__file__)
    code = CHILD.format(here=here, root=os.path.dirname(os.path.dirname(here)), path=str(tmp_path / "r"))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(20):
            last = int(child.stdout.readline())
        with pytest.raises(RunFolderError, match=f"another run writes this folder .process {child.pid} on "):
            open_folder(tmp_path / "r")
    finally:
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0].split()
    last = int(rest[-1]) if rest else last
    with open_folder(tmp_path / "r") as folder:  # the lock went with the process
        assert len(folder.committed_questions(0)) - last - 1 in (0, 1)
        assert len(list(folder.pairs(0))) + folder.drops(0).total() == len(folder.committed_questions(0))


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
        assert len(folder.committed_questions(0)) == 3


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


@pytest.mark.parametrize("fits", [0, 100, 700, 1500])
def test_a_full_disk_takes_the_question_back(tmp_path, monkeypatch, fits):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        before = data_files(tmp_path / "r")
        room, real = [fits], os.write

        def write(descriptor, data):
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real(descriptor, data[: room[0]])
            room[0] -= written
            return written

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(RunFolderError, match="No space left"):
            fill(folder, 2)
        monkeypatch.undo()
        assert data_files(tmp_path / "r") == before and folder.committed_questions(0) == {"q0"}
        fill(folder, 2)
    with open_folder(tmp_path / "r") as folder:
        assert folder.notes == [] and folder.committed_questions(0) == {"q0", "q1"}


def test_versions_name_what_decides_the_figures():
    found = versions()
    assert found["torch"] and found["transformers"]
