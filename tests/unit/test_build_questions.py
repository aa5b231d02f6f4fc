"""build_questions: from entries to files that `data.train` reads, with a scripted judge and without one; a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import CUT, MODEL, REFUSED, ScriptedServer

from maskdpo_ray import build_questions
from maskdpo_ray.data.questions import check_disjoint, load
from maskdpo_ray.errors import UserError
from maskdpo_ray.store.reply_log import ReplyLog

ROOT = Path(__file__).parents[2]
OUTPUTS = ("train.jsonl", "test.jsonl", "summary.json", "replies.jsonl")


def script(messages: list[dict[str, str]]) -> Any:
    """Replies about entry n: two questions, none for n = 1, cut off for 2; the second question of 3 is unclear."""
    text = messages[-1]["content"]
    if text.startswith("To which domain"):
        return "12" if re.search(r"first of", text) else "I'd say 5."
    if text.startswith("The question is:"):
        return "'It'? [Unclear]" if "second of E3" in text else "Fine. [High Quality]"
    number = int(re.findall(r"\[Object\]: E(\d+)", text)[-1])
    if number in (1, 2, 4):
        return {1: "I can't.", 2: CUT, 4: REFUSED}[number]
    return "\n\n".join(
        f"[Question {n}]: What is the {which} of E{number}?\n[Standard Answer]: right {n}\n"
        + "\n".join(f"[Wrong Answer {wrong}]: wrong {wrong}" for wrong in (1, 2, 3))
        for n, which in ((1, "first"), (2, "second"))
    )


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    file = tmp_path / "entries.jsonl"
    rows = [{"title": f"E{n}", "description": "It is so. " * (5 if n == 0 else 20), "views": n} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def words(entries: Path, output: Path, url: str, *more: str) -> list[str]:
    options = f"{{base_url: '{url}', model: {MODEL}, max_retries: 0, start_timeout_s: 0}}"
    return [str(entries), "-o", str(output), "--judge", "http", "--judge_options", options, *more]


def contents(folder: Path) -> dict[str, bytes]:
    """The files; replies in the order of their lines, as they come in any."""
    found = {name: (folder / name).read_bytes() for name in OUTPUTS}
    return found | {OUTPUTS[3]: b"".join(sorted(found[OUTPUTS[3]].splitlines(keepends=True)))}


def test_questions_of_a_judge(entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(script=script) as server:
        build_questions.main(words(entries, tmp_path / "out", server.url, "--num_test", "2"))
        first = contents(tmp_path / "out")
        asked = len(server.requests)
        build_questions.main(words(entries, tmp_path / "out", server.url, "--num_test", "2"))
        assert contents(tmp_path / "out") == first and len(server.requests) == asked  # not even a first "Hello."
    summary = json.loads(first["summary.json"])
    assert summary == {
        "dropped_entries": {},
        "entry_filter": {"given": 20, "kept": 20, "drops": {}},
        "description_filter": {"given": 20, "kept": 19, "drops": {"too_short": 1}},
        "generation": {"given": 35, "kept": 32, "drops": {"unparsed": 3}},
        "classification": {"astronomy & geography": 16, "biography": 16},
        "quality_filter": {"given": 32, "kept": 31, "drops": {"unclear": 1}},
        "split": {
            "train": {"astronomy & geography": 14, "biography": 13},
            "test": {"astronomy & geography": 2, "biography": 2},
        },
    }
    train, test = (load(str(tmp_path / "out" / name)) for name in OUTPUTS[:2])
    check_disjoint(train, test)
    assert (len(train), len(test)) == (27, 4)
    question = next(each for each in (*train, *test) if each.id == "E5/1")
    assert (question.topic, question.answer, question.wrong_answers) == (
        "E5",
        "right 1",
        ("wrong 1", "wrong 2", "wrong 3"),
    )
    assert (
        question.facts == {"domain": "astronomy & geography"}
        and question.prompt[0]["content"] == "What is the first of E5?"
    )
    printed = capsys.readouterr().out
    assert (
        "questions: 32 of 35; dropped: 3 unparsed\nquality: 31 of 32; dropped: 1 unclear\n27 questions -> " in printed
    )
    assert "resumed: " in printed and "holds 83 replies" in printed


def test_a_kill_changes_no_byte(entries: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    hang, ended = threading.Event(), threading.Event()
    hang.set()

    def slow(messages: list[dict[str, str]]) -> Any:
        if hang.is_set() and re.search("E(9|1.)", messages[-1]["content"]):
            ended.wait(60)
        return script(messages)

    with ScriptedServer(script=slow) as server:
        command = [sys.executable, "-m", "maskdpo_ray.build_questions", *words(entries, killed, server.url)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = killed / "replies.jsonl"
        # All steps of entries 3 and 5 to 8, five replies each, and the first of 1, 2 and 4; other entries hang.
        replies = 1 + 5 * 5 + 3
        deadline = time.monotonic() + 60
        while (not log.exists() or log.read_bytes().count(b"\n") < replies) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        hang.clear()
        ended.set()
        assert log.read_bytes().count(b"\n") == replies and not (killed / "train.jsonl").exists()
        with log.open("ab") as file:
            file.write(b'{"key": "ab')  # half a line
        asked = len(server.requests)
        build_questions.main(words(entries, killed, server.url))
        assert len(server.requests) - asked == 1 + 83 - (replies - 1)  # a first "Hello.", and what was missing
        build_questions.main(words(entries, whole, server.url))
    assert contents(killed) == contents(whole)


def test_a_judge_that_is_not_there_is_one_line(entries: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got after 0 retries: .*refused"):
        build_questions.main(words(entries, tmp_path / "out", "http://127.0.0.1:1/v1"))
    assert (tmp_path / "out/replies.jsonl").read_bytes().count(b"\n") == 1


def test_without_a_judge(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_questions.main(
            ["builtin:elements", "-o", str(tmp_path / name), "--num_test", "30", "--num_questions", "2"]
        )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    train, test = (load(str(tmp_path / "one" / name)) for name in OUTPUTS[:2])
    assert (len(train), len(test)) == (166, 30) and not {q.topic for q in train} & {q.topic for q in test}


def test_a_dry_run_writes_nothing(entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_questions.main(words(entries, tmp_path / "out", "http://127.0.0.1:1/v1", "--dry_run", "--min_views", "5"))
    assert capsys.readouterr().out == (f"{entries}: 20 entries, 15 of them with a description that is long enough\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["e.jsonl", "-o", "out"],
            "--judge: expected a judge, as only builtin:countries and builtin:elements need none",
        ),
        (
            ["builtin:elements", "-o", "out", "--judge", "vllm"],
            "build_questions.judge_options: VllmJudge: missing a required",
        ),
        (
            ["builtin:elements", "-o", "out", "--judge_options", "{a: 1}"],
            "--judge_options: expected none without --judge",
        ),
        (
            ["builtin:countrie", "-o", "out"],
            "ENTRIES: expected builtin:countries, builtin:elements or a file, got 'builtin:countrie'; "
            "did you mean builtin:countries?",
        ),
        (
            ["builtin:countries", "-o", "out", "--min_views", "5"],
            "--min_views: expected 0 with builtin:countries, whose entries have no views, got 5",
        ),
        (["e.jsonl", "-o", "out", "--judge", "gpt"], "build_questions.judge: expected one of http, vllm, python:"),
        (["e.jsonl", "-o", "out", "--judge", "http", "--judge_options", "x"], "--judge_options: expected "),
        (
            ["e.jsonl", "-o", "out", "--judge", "vllm", "--judge_options", "{model: org/name}"],
            "build_questions.judge_options.model: expected the folder of a model, or a model of the Hub, got 'org",
        ),
        (["builtin:elements", "-o", "out", "--num_questions", "0"], "--num_questions: expected a whole number above 0"),
        (["builtin:elements"], "-o/--output: expected a value, got nothing"),
        (["builtin:elements", "-o", "file"], "file: expected a folder to write, got a file"),
        (["builtin:elements", "-o", "other"], "other: expected a new folder, or one that build_questions began"),
        (["builtin:elements", "-o", "no/such"], "no/such: can't be written: No such file or directory"),
        (["builtin:elements", "-o", "began"], "began/replies.jsonl: expected replies of {"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("other").mkdir()
    Path("other/x").write_text("x")
    Path("began").mkdir()
    with ReplyLog(Path("began/replies.jsonl"), build_questions.Asked("http", {}), lambda *_: []):
        pass
    with pytest.raises(UserError) as error:
        build_questions.main(argv)
    assert str(error.value).startswith(expected)
    assert not Path("out").exists()


def test_entries_without_a_good_question(tmp_path: Path, entries: Path) -> None:
    expected = "expected questions to learn from, got none: entries: 20 of 20; desc"
    with ScriptedServer(script=lambda messages: "No.") as server, pytest.raises(UserError, match=expected):
        build_questions.main(words(entries, tmp_path / "out", server.url))
    assert not (tmp_path / "out/train.jsonl").exists()
