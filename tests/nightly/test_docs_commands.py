"""Commands of the documentation that take seconds are run as they are written, dearer ones with --dry_run.

tests/unit/scripts/test_docs_commands.py has the arguments of all of them checked.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import docs_commands
import pytest
from docs_commands import ROOT, Shown

from maskdpo_ray.__main__ import COMMANDS, module_of

SHOWN = [each for each in docs_commands.shown() if each.module in COMMANDS and len(each.arguments) > 1]


def cases(*modules: str) -> list[Shown]:
    """Commands of these modules, each once."""
    return list({tuple(each.arguments): each for each in SHOWN if each.module in modules}.values())


@pytest.fixture(autouse=True)
def reader(bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's folder: the repository's files, and a config of their own."""
    for name in ("configs", "docs", "models", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    mine = "base: configs/smoke.yaml\nds: {param_dtype: bf16}\ncluster: {device: cuda}\n"  # the README's has a GPU, too
    (tmp_path / "mine.yaml").write_text(mine, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def run(command: Shown, *more: str) -> None:
    """Call a command as the console script does."""
    import_module(module_of(command.module)).main([*command.arguments, *more])


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(module_of(name)).main(["--help"])
    assert not ended.value.code
    assert f"maskdpo_ray.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("command", cases("plan"), ids=lambda each: each.where)
def test_plan_says_what_the_page_shows(command: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit with 1 where it doesn't fit. What fits into this machine's memory isn't compared."""
    try:
        run(command)
    except SystemExit as ended:
        assert ended.code == 1
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    if "mine.yaml" not in command.words:
        assert not [line for line in command.output if line not in said and "all actors" not in line]


@pytest.mark.parametrize("command", cases("run"), ids=lambda each: each.where)
def test_run_would_start(command: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    config = next(word for word in command.words if word.endswith(".yaml"))
    if not Path(config).exists() or config == "configs/paper.yaml":
        pytest.skip(f"{config} is for a machine that has its model and questions")
    if "--hub.push" in command.words:
        pytest.skip("asks the Hub for a token and a repository before it starts")
    run(command, *([] if "--dry_run" in command.words else ["--dry_run"]))
    assert "rollout engines" in capsys.readouterr().out and not Path("runs").exists()


@pytest.mark.parametrize("command", cases("check_annotator"), ids=lambda each: each.where)
def test_check_annotator(command: Shown, capfd: pytest.CaptureFixture[str]) -> None:
    if "--labelled" in command.words:
        pytest.skip("needs a data set of labels")
    run(command)
    assert "ok" in capfd.readouterr().out


def test_build_questions(capsys: pytest.CaptureFixture[str]) -> None:
    built_in = next(each for each in cases("build_questions") if "builtin:countries" in each.words)
    run(built_in)
    assert Path("questions/train.jsonl").is_file()
