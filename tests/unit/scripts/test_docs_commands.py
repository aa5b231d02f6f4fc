"""Every command that README, CONTRIBUTING and docs/ show: bash, and the command's own parser, take it as it is written.

Those that are cheap are run by tests/nightly/test_docs_commands.py.
"""

from __future__ import annotations

import re
import subprocess
from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import docs_commands
import pytest
from docs_commands import ROOT, Shown

from maskdpo_ray.__main__ import COMMANDS, module_of
from maskdpo_ray.config import cli
from maskdpo_ray.config.file import Given, build, from_text, options, read_values, sections

SHOWN = docs_commands.shown()
OURS = [each for each in SHOWN if each.module in COMMANDS]
FOLDERS = "configs docs scripts benchmarks deploy docker tests requirements maskdpo_ray actors".split()
FILE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/.-]+\.(?:py|sh|yaml|md|json|jsonl|txt|svg)\b")
WRITTEN_BY_A_READER = {"configs/recipes/mine.yaml"}


class Parsed(Exception):
    """Arguments are read, and nothing further is to happen."""


def parsed(command: Shown, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """A command's arguments, by its own parser. Raises ConfigError as the command would."""
    read = cli.Parser.parse_args

    def stop(self: cli.Parser, argv: list[str]) -> Any:
        raise Parsed(read(self, argv))

    monkeypatch.setattr(cli.Parser, "parse_args", stop)
    with pytest.raises((Parsed, SystemExit)) as stopped:
        import_module(module_of(command.module)).main(command.arguments)
    return stopped.value.args[0] if isinstance(stopped.value, Parsed) else Namespace()  # the latter of --help


def source_of(script: Path) -> str:
    """Text of a script and of those beside it that it imports."""
    text = script.read_text(encoding="utf-8")
    names = re.findall(r"^(?:from|import) (?:benchmarks\.|scripts\.)?(\w+)", text, flags=re.M)
    beside = [script.with_name(f"{name}.py") for name in names]
    several = re.findall(r"^from (?:benchmarks|scripts) import ([\w, ]+)", text, flags=re.M)
    beside += [script.with_name(f"{name.strip()}.py") for line in several for name in line.split(",")]
    return "\n".join([text, *(file.read_text(encoding="utf-8") for file in beside if file.is_file())])


def test_commands_are_found() -> None:
    """The search itself: a page that lost its commands would pass every other test."""
    assert len(SHOWN) > 150 and {each.module for each in OURS} == set(COMMANDS)
    assert {each.script for each in SHOWN} >= {"scripts/quickstart.sh", "benchmarks/training.py", "scripts/chaos.py"}
    continued = next(each for each in OURS if "eval-offline" in each.words)
    assert continued.arguments[-2:] == ["--against", "runs/eval-base"]
    in_quotes = next(each for each in OURS if each.words[0] == ".venv/bin/ray")
    assert in_quotes.module == "run" and in_quotes.arguments[-1] == "1800"


@pytest.mark.parametrize("page", docs_commands.pages(), ids=lambda page: page.stem)
def test_blocks_are_bash(page: Path) -> None:
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    done = subprocess.run(["bash", "-n"], input="\n".join(blocks), capture_output=True, text=True)
    assert not done.stderr, done.stderr


@pytest.mark.parametrize("command", OURS, ids=lambda command: f"{command.where}-{command.module}")
def test_the_commands_parser_takes_it(command: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown options, missing arguments and values that an option refuses fail, whatever the files hold."""
    if len(command.arguments) < 2 and command.module != "watch":
        return  # a command's name in a sentence
    own = parsed(command, monkeypatch)
    given = {name: from_text(text, name) for name in options() if (text := getattr(own, name, None)) is not None}
    named = getattr(own, "config", None)
    if named and (ROOT / named).is_file():
        build(read_values(ROOT / named)[0] | given, ROOT / named)
    elif named or given:
        build({"model.model_name_or_path": Given("model", "a reader's config")} | given, Path(named or "none"))


@pytest.mark.parametrize("command", [each for each in SHOWN if each.script], ids=lambda each: f"{each.where}")
def test_scripts_know_their_options(command: Shown) -> None:
    source = source_of(ROOT / str(command.script))
    given = [word.partition("=")[0] for word in command.words if re.match(r"--\w", word)]
    absent = [name for name in given if name not in source and name.removeprefix("--") not in options()]
    assert not absent or "pytest" in source


def test_modules_are_there() -> None:
    named = {each.module for each in SHOWN if each.module} - {"--help"}
    assert not [name for name in named if find_spec(f"maskdpo_ray.{name}") is None]


def test_openrlhfs_options_are_openrlhfs() -> None:
    """`maskdpo_ray.openrlhf` takes what `openrlhf.cli.train_dpo` takes."""
    found = find_spec("openrlhf")
    assert found and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "cli"
    sources = {"maskdpo_ray.openrlhf": "train_dpo.py", "openrlhf.cli.train_ppo_ray": "train_ppo_ray.py"}
    commands = [(each, sources[word]) for each in SHOWN for word in each.words if word in sources]
    assert len(commands) == 2
    for command, name in commands:
        source = (folder / name).read_text(encoding="utf-8")
        assert not [word for word in command.words if re.match(r"--\w+\.", word) and f'"{word}"' not in source]


def test_files_that_pages_name_are_there() -> None:
    absent = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in docs_commands.pages()
        for name in FILE.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists() and not re.search("[A-Z]{3}", name) and name not in WRITTEN_BY_A_READER
    ]
    assert not absent, "\n".join(absent)


CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
NO_OPTION = {"py", "json", "jsonl", "yaml", "md", "log", "lock", "sh", "safetensors"}


@pytest.mark.parametrize("page", docs_commands.pages(), ids=lambda page: page.stem)
def test_options_that_a_page_names_exist(page: Path) -> None:
    """`section.option` and `--section.option`, in sentences and tables; some are OpenRLHF's."""
    option = rf"(?:^|[\s{{(]|--)((?:{'|'.join(sections())})\.[a-z]\w*)"
    codes = CODE.findall(page.read_text(encoding="utf-8"))
    named = {match[1] for code in codes for match in re.finditer(option, code)}
    openrlhfs = sources("openrlhf", "cli/train_dpo.py", "cli/train_ppo_ray.py")
    known = [*options(), *(f"{section}.{ending}" for section in sections() for ending in NO_OPTION)]
    absent = {name for name in named - set(known) if not re.search(rf'"--{name}[".]', openrlhfs)}
    assert not {name for name in absent if not (name.endswith("_") and any(each.startswith(name) for each in known))}


def sources(package: str, *files: str) -> str:
    """Text of files of an installed package, which isn't imported."""
    found = find_spec(package)
    assert found and found.submodule_search_locations
    return "\n".join((Path(found.submodule_search_locations[0]) / file).read_text(encoding="utf-8") for file in files)


def theirs(page: str) -> set[str]:
    """Names in the first column of a page's tables: option names, without values."""
    rows = [line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    codes = [code for row in rows for code in CODE.findall(row.split("|")[1])]
    return {name for code in codes for name in re.findall(r"(?<![\w.])(?:--)?[a-z][\w.]*(?=$|[:=(,) ])", code)}


def test_trls_options_are_trls() -> None:
    known = sources("trl", "trainer/dpo_config.py", "experimental/online_dpo/online_dpo_config.py")
    known += sources("trl", "trainer/dpo_trainer.py", "experimental/online_dpo/online_dpo_trainer.py")
    known += sources("transformers", "training_args.py") + sources("peft", "tuners/lora/config.py")
    names = theirs("from-trl.md")
    assert len(names) > 30 and not {name for name in names if not re.search(rf"\b{name}\b", known)}


def test_openrlhfs_names_in_the_tables_are_openrlhfs() -> None:
    known = sources("openrlhf", "cli/train_dpo.py", "cli/train_ppo_ray.py")
    names = {name for name in theirs("from-openrlhf.md") if name.startswith("--") and not name.endswith(".")}
    assert len(names) > 40 and not {name for name in names if f'"{name}"' not in known}
