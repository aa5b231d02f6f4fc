"""Question logs: what survives kills, power losses and full disks, and what is refused."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import fakes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run_folder import CONFIG, answer, fill, log_of, open_folder, unit

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import Annotation, CommittedQuestion, PreferencePair, Rollout, ScoredAnswer
from maskdpo_ray.store.question_log import num_unsealed, read_questions
from maskdpo_ray.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with four questions and the size of its log after three of them."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with open_folder(path) as folder:
        fill(folder, 3)
        before = log_of(path).stat().st_size
        fill(folder, 4)
    return path, before


def ids(count):
    return {f"q{number}" for number in range(count)}


def test_committing_twice_or_the_wrong_answers_is_an_error(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        rollouts, annotations, pair = unit("q1")
        for question_id, parts, message in [
            ("q0", unit("q0"), "committed already"),
            ("q1", (rollouts, annotations[:1], pair), "not of the same answers"),
            ("q1", unit("q3"), "rollout of another question"),
            ("q1", (rollouts, annotations, unit("q3")[2]), "holds pairs of another question, or of other answers"),
        ]:
            with pytest.raises(ValueError, match=message):
                folder.questions(0).commit(fakes.committed(question_id, *parts))
        assert folder.questions(0).question_ids == {"q0"}


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
    added = log_of(path).stat().st_size - before
    written = round(share * added)
    os.truncate(log_of(path), before + written)
    with open_folder(path) as folder:
        assert folder.questions(0).question_ids == ids(4 if written == added else 3)
        assert bool(folder.notes) == (0 < written < added)
        fill(folder, 4)
    assert log_of(path).read_bytes() == log_of(original).read_bytes()
    shutil.rmtree(path)


@given(share=st.floats(0, 1), zeros=st.booleans(), newline=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_power_loss_leaves_the_longest_whole_beginning(whole, tmp_path_factory, share, zeros, newline):
    original, _ = whole
    path = tmp_path_factory.mktemp("power") / "run"
    shutil.copytree(original, path)
    file = log_of(path)
    size = file.stat().st_size
    kept = round(share * size)
    os.truncate(file, kept)
    if zeros:
        os.truncate(file, size)  # a file system may give the size back and not the bytes
        if newline:  # or the last of them
            with file.open("r+b") as opened:
                opened.seek(size - 1)
                opened.write(b"\n")
    with open_folder(path) as folder:
        committed = sorted(folder.questions(0).question_ids)
        assert committed == [f"q{i}" for i in range(len(committed))]
        assert len(committed) == 4 or kept < size
        assert [pair.question_id for _, pair in folder.questions(0).pairs()] == [q for q in committed if q != "q2"]
        fill(folder, 4)
    assert file.read_bytes() == log_of(original).read_bytes()
    with open_folder(path) as folder:
        assert folder.notes == [] and len(folder.questions(0).question_ids) == 4
    shutil.rmtree(path)


CHILD = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
import fakes
from test_run_folder import open_folder, unit
folder = open_folder({path!r})
for number in range(10**6):
    folder.questions(0).commit(fakes.committed(f"q{{number}}", *unit(f"q{{number}}")))
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
        assert len(folder.questions(0).question_ids) - last - 1 in (0, 1)
        log = folder.questions(0)
        assert len(list(log.pairs())) + log.drops().total() == len(log.question_ids)


@pytest.mark.parametrize("fits", [0, 100, 700])
@pytest.mark.parametrize("when", ["write", "fsync"])
def test_a_full_disk_takes_the_question_back(tmp_path, monkeypatch, fits, when):
    """Also where the file system says so only when bytes are to reach the disk, as NFS does."""
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        before = log_of(tmp_path / "r").read_bytes()
        room, real = [fits], os.write

        def write(descriptor, data):
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real(descriptor, data[: room[0]])
            room[0] -= written
            return written

        def fsync(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, when, write if when == "write" else fsync)
        with pytest.raises(RunFolderError, match="questions.jsonl: can't be written: No space left"):
            fill(folder, 2)
        monkeypatch.undo()
        assert log_of(tmp_path / "r").read_bytes() == before and folder.questions(0).question_ids == {"q0"}
        fill(folder, 2)
    with open_folder(tmp_path / "r") as folder:
        assert folder.notes == [] and folder.questions(0).question_ids == {"q0", "q1"}


def test_questions_that_end_meanwhile_share_one_wait_for_the_disk(tmp_path, monkeypatch):
    calls, real, gate = [], os.fsync, threading.Event()

    def fsync(descriptor):
        gate.wait(10)
        calls.append(descriptor)
        real(descriptor)

    with open_folder(tmp_path / "r") as folder:
        log = folder.questions(0)
        monkeypatch.setattr(os, "fsync", fsync)
        with log.committing() as committer:
            for number in range(50):
                committer.commit(fakes.committed(f"q{number}", *unit(f"q{number}")))
            gate.set()
        assert log.question_ids == ids(50) and len(calls) <= 3
    with open_folder(tmp_path / "r") as folder:
        assert folder.questions(0).question_ids == ids(50)


def test_a_full_disk_beside_the_work_is_raised_and_nothing_is_lost(tmp_path, monkeypatch):
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
        log = folder.questions(0)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(RunFolderError, match="No space left"), log.committing() as committer:
            monkeypatch.setattr(os, "write", full)
            for number in range(1, 400):
                committer.commit(fakes.committed(f"q{number}", *unit(f"q{number}")))
        monkeypatch.undo()
        assert log.question_ids == {"q0"}
    with open_folder(tmp_path / "r") as folder:
        assert folder.notes == [] and folder.questions(0).question_ids == {"q0"}


def test_a_question_that_is_given_twice_to_the_committer_is_an_error(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        log = folder.questions(0)
        with pytest.raises(ValueError, match="'q0' is committed already"), log.committing() as committer:
            for _ in range(2):
                committer.commit(fakes.committed("q0", *unit("q0")))
        assert len(list(log.questions())) == len(log.question_ids)


def test_changed_bytes_under_a_finished_stage_are_an_error(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        fill(folder, 3)
        folder.finish("reference", 0)
        fill(folder, 4)
    file = log_of(path)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"Kigali", b"Nairob", 1))
    with pytest.raises(
        RunFolderError, match=r"questions.jsonl: its first \d+ bytes changed after a stage was built on"
    ):
        open_folder(path)
    file.write_bytes(whole)
    with open_folder(path) as folder:
        folder.finish("train", 0, checksum="c")
    file.write_bytes(whole.replace(b"Kigali", b"Nairob", 1))
    with open_folder(path) as folder, pytest.raises(RunFolderError, match="changed after a stage was built on"):
        folder.questions(0)


@pytest.mark.parametrize("size", [None, 0, -1])
def test_a_log_shorter_than_a_finished_stage_knew_it_is_refused(tmp_path, size):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        fill(folder, 2)
        folder.finish("reference", 0)
        folder.evaluated(0, "heldout").commit(fakes.committed("h", *unit("h")[:2]))
    file = log_of(path)
    whole = file.stat().st_size
    file.unlink() if size is None else file.write_bytes(file.read_bytes()[:size])
    got = 0 if size is None else whole + size if size else 0
    expected = f"{file}: expected at least the {whole} bytes that a finished stage was built on, got {got}; restore"
    for attempt in (RunFolder.check, open_folder):
        with pytest.raises(RunFolderError, match=expected):
            attempt(path, CONFIG)


def line(question_id="q9", **changes):
    rollouts, annotations, outcome = unit("q9")
    record = fakes.committed("q9", rollouts, annotations, outcome)
    value = json.loads(json.dumps({name: getattr(record, name) for name in record.__struct_fields__}, default=as_dict))
    return value | {"question_id": question_id} | changes


def as_dict(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


[PAIR] = line()["pairs"]
DAMAGED = {
    "no JSON": ("{", "line 3: expected JSON, got: "),
    "no object": ([], "line 3: expected an object with the fields of the committed question, got list []"),
    "a field too many": (line(news=1), "line 3: unknown field 'news' in the committed question"),
    "a field too few": ({"drops": []}, "line 3: missing field 'question_id' in the committed question"),
    "another type": (line(rollouts=[3]), "line 3: field 'rollouts[0]': expected an object, got int 3"),
    "of another question": (line("q8"), "line 3: question 'q8': holds a rollout of another question"),
    "labels lost": (line(annotations=[]), "question 'q9': rollouts and annotations are not of the same answers"),
    "a pair of none": (
        line(pairs=[PAIR, PAIR | {"chosen": 7}]),
        "question 'q9': pairs[1]: expected one answer 7, got [0, 1]",
    ),
    "twice": (line("q0", rollouts=[], annotations=[], pairs=[]), "expected each question once, got 'q0' again"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_that_no_kill_leaves_is_refused_and_nothing_is_cut(tmp_path, case):
    path, (value, message) = tmp_path / "r", DAMAGED[case]
    with open_folder(path) as folder:
        fill(folder, 4)
    lines = log_of(path).read_bytes().splitlines(keepends=True)
    lines[2] = (value if isinstance(value, str) else json.dumps(value)).encode() + b"\n"
    log_of(path).write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError) as caught:
        open_folder(path)
    assert str(caught.value).startswith(str(log_of(path))) and message in str(caught.value)
    assert "\n" not in str(caught.value) and log_of(path).read_bytes() == b"".join(lines)


def test_a_log_that_is_a_folder_is_one_line(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        os.makedirs(tmp_path / "r/iter_000/questions.jsonl")
        with pytest.raises(RunFolderError, match=r"questions.jsonl: can't be written: Is a directory$"):
            folder.questions(0)


def of_policy(version, name):
    """An answer of policy `version`."""
    rollout, annotation = answer(name)
    return [Rollout(name, 0, rollout.token_ids, rollout.text, "stop", version)], [annotation]


@pytest.fixture
def two_policies(tmp_path):
    """Ledger: line 1 open, 2 train 0, 3 evaluate 1; one question of each policy, and one of none."""
    path = tmp_path / "run"
    with open_folder(path) as folder:
        fill(folder, 3)
        folder.finish("train", 0, checksum="abc")
        folder.evaluated(1, "heldout").set_aside("gone", "no answer")
        folder.evaluated(1, "heldout").commit(fakes.committed("h0", *of_policy(1, "h0")))
        folder.finish("evaluate-heldout", 1)
        folder.questions(1).commit(fakes.committed("q2", *of_policy(1, "q2"), "same_score"))
    return path


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "run.lock"}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((), "expected a line of the run's beginning, as iter_000/questions.jsonl holds answers, got none"),
        ((0,), "expected a line of the training that gave policy 1, as iter_001/questions.jsonl holds answers"),
        ((0, 2), "expected a line of the training that gave policy 1, as iter_001/questions.jsonl holds answers, got"),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_a_ledger_that_lost_lines_is_refused_and_no_answer_is_cut(two_policies, kept, message, half):
    """Else policy 1 would be trained again, and its answers be taken for the new one's."""
    ledger = two_policies / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[number] for number in kept) + (lines[1][:40] if half else b""))
    before = contents(two_policies)
    for attempt in (lambda: RunFolder.check(two_policies, CONFIG), lambda: open_folder(two_policies)):
        with pytest.raises(RunFolderError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value) and "restore the ledger" in str(caught.value)
    assert contents(two_policies) == before


def test_a_ledger_that_is_gone_is_refused(two_policies):
    (two_policies / "ledger.jsonl").unlink()
    for attempt in (RunFolder.check, open_folder):
        with pytest.raises(RunFolderError, match="got 'config.yaml' and no ledger.jsonl"):
            attempt(two_policies, CONFIG)


def test_a_stage_whose_line_is_lost_is_done_again_on_the_same_answers(two_policies):
    """A kill leaves that; no answer depends on it."""
    ledger = two_policies / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    with open_folder(two_policies) as folder:
        assert folder.notes == [] and folder.finished("evaluate-heldout", 1) is None
        assert folder.evaluated(1, "heldout").question_ids == {"gone", "h0"}
        assert folder.questions(1).question_ids == {"q2"}


def test_the_counts_of_sealed_and_open_logs(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        fill(folder, 2)
        folder.finish("reference", 0)
        log = folder.evaluated(0, "heldout")
        log.commit(fakes.committed("h", *unit("h")[:2]))
        expected = folder.counts()
        assert (expected["annotations"].total, expected["annotations"].unparsed) == (6, 0)
        assert num_unsealed(path, RunFolder.check(tmp_path / "none", CONFIG)) == {"iter_000": 2, "eval_000/heldout": 1}
    assert num_unsealed(path, RunFolder.check(path, CONFIG)) == {"eval_000/heldout": 1}
    with open_folder(path) as folder:
        assert folder.counts() == expected
        folder.questions(0)
        assert folder.counts() == expected


def test_what_is_read_is_what_was_committed(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        fill(folder, 3)
        folder.questions(0).set_aside("x", "gone")
    read = list(read_questions(log_of(path)))
    assert [(question.question_id, question.drops, question.error) for question in read] == [
        ("q0", (), None),
        ("q1", (), None),
        ("q2", ("same_score",), None),
        ("x", ("failed",), "gone"),
    ]
    assert [question.preference_pairs() for question in read] == [[unit("q0")[2]], [unit("q1")[2]], [], []]
    assert read[0].annotations == tuple(unit("q0")[1]) and isinstance(read[0].annotations[0], Annotation)


def several(question_id="q5"):
    """A question with a pair, an answer that is only good, one that is only bad, and a dropped pair."""
    rollouts, annotations = zip(*(answer(question_id, sample) for sample in range(3)), strict=True)
    first, second, third = (
        ScoredAnswer(r, a, s) for r, a, s in zip(rollouts, annotations, (1.0, 0.5, None), strict=True)
    )
    sides = [(first, second), (third, None), (None, second), (second, first)]
    pairs = [PreferencePair(question_id, "topic", (7, number), *each, 0) for number, each in enumerate(sides)]
    return pairs, CommittedQuestion.of(question_id, rollouts, annotations, pairs, ("same_score", "unpaired"))


def test_several_pairs_of_a_question_and_single_answers(tmp_path):
    pairs, committed = several()
    with open_folder(tmp_path / "r") as folder:
        folder.questions(0).commit(committed)
    with open_folder(tmp_path / "r") as folder:
        log = folder.questions(0)
        assert list(log.questions()) == [committed] and list(log.pairs()) == list(enumerate(pairs))
        assert log.drops() == {"same_score": 1, "unpaired": 1}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("sides", [{"chosen": 3, "rejected": None}, {"chosen": 0, "rejected": -1}])
def test_a_pair_of_an_answer_that_is_not_there_is_refused(tmp_path, number, sides):
    with open_folder(tmp_path / "r") as folder:
        folder.questions(0).commit(several()[1])
    value = json.loads(log_of(tmp_path / "r").read_text())
    value["pairs"][number].update(sides)
    log_of(tmp_path / "r").write_text(json.dumps(value) + "\n")
    missing = 3 if sides["chosen"] == 3 else -1
    message = rf"question 'q5': pairs\[{number}\]: expected one answer {missing}, got \[0, 1, 2\]"
    with pytest.raises(RunFolderError, match=message):
        open_folder(tmp_path / "r").questions(0)


def test_a_pair_of_no_answer_is_none():
    with pytest.raises(ValueError, match="pair of question 'q': expected an answer, got none"):
        PreferencePair("q", "topic", (7,), None, None, 0)
