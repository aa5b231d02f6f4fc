"""Secrets that must not get out: keys into files and messages, escapes onto the terminal, names out of the folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
from fake_run import config_for
from fakes import CharChat, Events
from scripted_judge import MODEL, ScriptedServer
from test_summary import make

from maskdpo_ray import check_annotator, terminal
from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.schema import AnnotationConfig, ClusterConfig, Config, LoggerConfig
from maskdpo_ray.errors import AnnotatorError, DataError, UserError
from maskdpo_ray.loop import Loop
from maskdpo_ray.records import Question, encode_line
from maskdpo_ray.report import comparison, summary
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

KEY = "sk-7f3a9d0c5e1b8642"
EVIL = "\x1b]0;owned\x07\x9b2J\u202e\r\x7f"
JUDGE = {"base_url": "http://127.0.0.1:1/v1", "model": MODEL, "api_key_env": "JUDGE_KEY"}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "JUDGE_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run(config: Config, names: tuple[str, ...]) -> None:
    """A whole run over fakes, down to the summary."""
    initial = fakes.write_policy(config.model.model_name_or_path, 0, b"initial")
    path, resolved = Path(config.run.dir) / config.run.name, cli.resolved(config)
    asked, held_out = [fakes.question(name) for name in names], {"heldout": [fakes.question("h")]}
    with RunFolder.open(path, resolved) as folder, Tracker(path, config.logger, resolved) as tracker:
        Loop(config, asked, held_out, CharChat(), initial, fakes.groups(config, Events()), folder, tracker).run()
        folder.write_json("summary.json", summary.build(path))


def test_a_run_leaves_no_key(tmp_path: Path, keys: None, capfd: pytest.CaptureFixture[str]) -> None:
    """In no file, W&B's included, and not in what is printed."""
    annotation = AnnotationConfig(annotator="anah", options={"judge": "http", "judge_options": JUDGE})
    config = replace(config_for(tmp_path), logger=LoggerConfig(wandb_mode="offline"), annotation=annotation)
    run(config, ("a", "b"))
    summary.show(summary.build(tmp_path / "run"))
    with pytest.raises(ZeroDivisionError), terminal.error_log(tmp_path / "run"):
        1 / 0  # noqa: B018
    said = capfd.readouterr()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.yaml", "error.log", "metrics.jsonl"} <= {file.name for file in files}
    assert any(file.suffix == ".wandb" for file in files)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    assert KEY not in said.out + said.err
    assert "JUDGE_KEY" in (tmp_path / "run" / "config.yaml").read_text()


class Echo(ScriptedServer):
    """An endpoint that repeats the key it was sent, where an error line may end."""

    def answer(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        if self.status == 200:
            return 200, {"id": authorization, "object": f"the key is {authorization}"}
        return self.status or 0, {"error": {"message": f"{'x' * 235} {authorization} is no key of ours"}}


@pytest.mark.parametrize("status", [200, 400, 401, 404])
def test_an_endpoint_that_repeats_the_key(keys: None, status: int) -> None:
    with Echo(status=status) as server:
        judge = judges.build(
            "http", {**JUDGE, "base_url": server.url, "max_retries": 0}, 100, "annotation.judge_options"
        )
        with pytest.raises(AnnotatorError) as caught:
            judge.start()
        judge.close()
    assert KEY[:8] not in str(caught.value) and "***" in str(caught.value)


def is_tame(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_error_lines_and_logs_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.fail(DataError(f"question {EVIL}: expected\n{EVIL} {'x' * 5000}"))
    said = capsys.readouterr().err
    assert is_tame(said) and said.count("\n") == 1 and len(said) < 1100
    assert said.startswith("error: question \\x1b]0;owned\\x07\\x9b2J\\u202e \\x7f: expected \\x1b]0;owned")
    with pytest.raises(UserError), terminal.error_log(tmp_path):
        raise DataError(EVIL)
    log = (tmp_path / "error.log").read_text(encoding="utf-8")
    assert is_tame(log) and "\\x1b]0;owned" in log and log.count("\n") > 3


def test_summaries_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kinds of fact come from annotators, examples of unparsed sentences from models."""
    label = [(EVIL, "no_hallucination"), (f"b{EVIL}", "contradictory")]
    folder = make(tmp_path, label, label)
    built = summary.build(folder)
    built["remarks"].append(EVIL)
    summary.show(built)
    assert is_tame(summary.render(built)) and "\\x1b]0;owned" in summary.render(built)
    config = 'run: {name: r, seed: 3}\neval: {bootstrap_samples: 100}\nmask: {policy: mask_dpo, eos: "\\x1b[2J"}\n'
    (folder / "config.yaml").write_text(config)
    # The folder is of no finished run: it kept no policy.
    (folder / "summary.json").write_bytes(encode_line({**summary.build(folder), "kept": {"version": 1}}))
    (folder / "iter_000" / "questions.jsonl").touch()
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.yaml").write_text(config.replace("x1b", "x9b"))
    comparison.main([str(folder), str(other)])
    said = capsys.readouterr().out
    assert is_tame(said) and "mask.eos \\x1b[2J" in said


class Cursing(fakes.Accepting):
    def check(self, asked: Question) -> None:
        raise ValueError(EVIL)


def test_what_an_own_annotator_says_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: {model_name_or_path: m}\nannotation: {annotator: 'python:test_run_secrets:Cursing'}\n"
    )
    with pytest.raises(SystemExit):
        check_annotator.main(["--config", str(tmp_path / "config.yaml")])
    said = capsys.readouterr().out
    assert is_tame(said) and "\\x1b]0;owned" in said


def test_progress_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(terminal.track([1], f"read {EVIL}", 1)) == [1]
    said = capsys.readouterr().err.replace("\r", "\n")
    assert is_tame(said) and "owned" in said


def test_an_error_has_a_line_of_its_own_behind_progress(capsys: pytest.CaptureFixture[str]) -> None:
    under_way = terminal.track([1, 2], "read", 2)
    next(under_way)
    with pytest.raises(SystemExit):
        cli.fail(DataError("expected a line"))
    assert capsys.readouterr().err.splitlines()[-1] == "error: expected a line"
    assert list(under_way) == [2]


NAMES = (
    "../../escaped",
    "/escaped",
    "a/../../../escaped",
    "~/escaped",
    "iter_000/policy",
    "..",
    "-rf",
    "con:x",
    "a" * 200,
)


def test_names_of_questions_lead_nowhere(tmp_path: Path, keys: None) -> None:
    """Ids are no paths: with any of them a run leaves the same files, all in its folder."""

    def files(folder: str, names: tuple[str, ...]) -> set[str]:
        base = tmp_path / folder / "runs"
        base.mkdir(parents=True)
        run(config_for(base), names)
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["runs"]
        return {str(path.relative_to(base)) for path in base.rglob("*")}

    assert files("evil", NAMES) == files("plain", tuple(f"q{i}" for i in range(len(NAMES))))
    assert not [path for path in (Path("/escaped"), Path.home() / "escaped") if path.exists()]


@pytest.mark.parametrize(
    ("address", "variable", "expected"), [(None, None, "0"), ("auto", None, None), (None, "head:6379", None)]
)
def test_a_ray_of_our_own_is_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, expected: str | None
) -> None:
    """Variables alone: what it listens on is looked at in tests/e2e/test_story.py."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")  # put back afterwards
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    resources.prefer_loopback(ClusterConfig(address=address))
    assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == expected
