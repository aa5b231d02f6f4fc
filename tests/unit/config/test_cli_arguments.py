"""Command lines of a command that takes files and options of its own beside those of the config."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskdpo_ray.config.cli import Parser
from maskdpo_ray.errors import ConfigError

PARTS = (
    ["a b.jsonl"],
    ["-o", "my out"],
    ["--run.name", "my eval"],
    ["--annotation.options", "{tables: {}}", "--dry_run"],
)


@pytest.fixture
def parser() -> Parser:
    parser = Parser("test", "")
    parser.add_argument("answers", nargs="?")
    parser.add_argument("-o", "--output")
    return parser.add_config()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("my config.yaml").write_text("model: {model_name_or_path: m}\n")
    return ["--config", "my config.yaml"]


def test_any_order_and_values_with_spaces(parser: Parser, config: list[str]) -> None:
    for parts in itertools.permutations((*PARTS, config)):
        command = parser.parse([word for part in parts for word in part])
        assert (command.own.answers, command.own.output, command.dry_run) == ("a b.jsonl", "my out", True)
        assert command.config.run.name == "my eval" and command.config.annotation.options == {"tables": {}}


def test_values_behind_an_equals_sign(parser: Parser, config: list[str]) -> None:
    command = parser.parse(["--run.name=--x y", "--eval.options={a: '--b=c  d'}", "--eval.evaluator=e", *config])
    assert command.own.answers is None and command.config.run.name == "--x y"
    assert command.config.eval.options == {"a": "--b=c  d"}


REFUSED = {
    "no value": (["--run.name", "--dry_run"], "--run.name: expected text, got nothing (see"),
    "no value, a file": (["a", "--run.name"], "--run.name: expected text, got nothing (see"),
    "no value, own option": (["--run.name", "-o", "x"], "--run.name: expected text, got nothing (see"),
    "no value, other option": (["--run.name", "--run.seed", "1"], "--run.name: expected text, got nothing (see"),
    "no own value": (["-o", "--run.name", "x"], "-o/--output: expected a value, got nothing (see --help)"),
    "negative": (["--run.seed", "-1"], "--run.seed: expected 0 to 2^31-1, got -1"),
    "two files": (["a", "--dry_run", "b c"], "'b c': expected no further file, got one (see --help)"),
    "unknown": (["a", "--dry-run", "b"], "--dry-run: unknown option; did you mean --dry_run? (see --help)"),
    "unknown of config": (["a", "--train.bta", "b c"], "--train.bta: unknown option; did you mean --train.beta? ("),
    "far off": (["--eval-n", "3"], "--eval-n: unknown option (see --help)"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(parser: Parser, config: list[str], words: list[str], message: str) -> None:
    for argv in ([*config, *words], [*words, *config]):
        with pytest.raises(ConfigError) as caught:
            parser.parse(argv)
        assert str(caught.value).startswith(message)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "from maskdpo_ray.config import cli; cli.start(lambda _: print('said'), [])"
    ended = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")
