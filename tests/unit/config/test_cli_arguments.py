"""Command lines of a command that takes files and options of its own beside those of the config."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from maskdpo_ray.config.cli import Parser, with_config
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
    return parser


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("my config.yaml").write_text("model: {model_name_or_path: m}\n")
    return ["--config", "my config.yaml"]


def test_any_order_and_values_with_spaces(parser: Parser, config: list[str]) -> None:
    for parts in itertools.permutations((*PARTS, config)):
        own, command = with_config(parser, [word for part in parts for word in part])
        assert (own.answers, own.output, command.dry_run) == ("a b.jsonl", "my out", True)
        assert command.config.run.name == "my eval" and command.config.annotation.options == {"tables": {}}


def test_values_behind_an_equals_sign(parser: Parser, config: list[str]) -> None:
    own, command = with_config(
        parser, ["--run.name=--x y", "--eval.options={a: '--b=c  d'}", "--eval.evaluator=e", *config]
    )
    assert own.answers is None and command.config.run.name == "--x y"
    assert command.config.eval.options == {"a": "--b=c  d"}


REFUSED = {
    "no value": (["--run.name", "--dry_run"], "--run.name: expected text, got nothing (--help lists every option)"),
    "no value, a file": (["a", "--run.name"], "--run.name: expected text, got nothing (--help lists every option)"),
    "no value, own option": (["--run.name", "-o", "x"], "--run.name: expected text, got nothing (--help"),
    "no value, other option": (["--run.name", "--run.seed", "1"], "--run.name: expected text, got nothing (--help"),
    "no own value": (["-o", "--run.name", "x"], "-o/--output: expected a value, got nothing (--help shows"),
    "negative": (["--run.seed", "-1"], "--run.seed: expected 0 to 2^31-1, got -1"),
    "two files": (["a", "--dry_run", "b c"], "b c: expected no further file, got one (--help shows the command line)"),
    "unknown": (["a", "--dry-run", "b"], "--dry-run: unknown option; did you mean --dry_run? (--help lists"),
    "unknown of config": (["a", "--train.bta", "b c"], "--train.bta: unknown option; did you mean --train.beta? ("),
    "far off": (["--eval-n", "3"], "--eval-n: unknown option (--help lists every option)"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(parser: Parser, config: list[str], words: list[str], message: str) -> None:
    for argv in ([*config, *words], [*words, *config]):
        with pytest.raises(ConfigError) as caught:
            with_config(parser, argv)
        assert str(caught.value).startswith(message)
