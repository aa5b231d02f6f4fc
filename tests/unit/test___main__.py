"""The console script: the same commands as `python -m maskdpo_ray.NAME`, and a help that imports none of them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from test_house import COMMANDS, modules, room

from maskdpo_ray import __main__

ROOT = Path(__file__).parents[2]
RUN_IT = "import sys; sys.argv[0] = 'maskdpo'; from maskdpo_ray.__main__ import main; main()"


def maskdpo(*argv: str) -> subprocess.CompletedProcess[str]:
    """Call the console script as pip writes it."""
    return subprocess.run([sys.executable, "-c", RUN_IT, *argv], cwd=ROOT, capture_output=True, text=True)


def test_its_commands_are_all_commands() -> None:
    found = {module.split(".")[1] for module in modules() if room(module) == "commands"} - {"__main__"}
    assert set(__main__.COMMANDS) == found <= COMMANDS


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_the_commands_and_imports_none(word: str) -> None:
    code = f"import sys; sys.argv[1:] = ['{word}']; from maskdpo_ray.__main__ import main; main(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, loaded = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[3:]] == __main__.COMMANDS
    assert all(len(line.split()) > 4 and line.endswith(".") for line in lines[3:])
    ours = {name for name in loaded.split() if name.startswith("maskdpo_ray")}
    assert ours == {"maskdpo_ray", "maskdpo_ray.__main__"} and not {"yaml", "argparse"} & set(loaded.split())


@pytest.mark.parametrize("name", ["train", "run"])
def test_help_of_a_command_names_the_program_as_it_was_called(name: str) -> None:
    as_module = [sys.executable, "-m", f"maskdpo_ray.{name}", "--help"]
    done = subprocess.run(as_module, cwd=ROOT, capture_output=True, text=True, check=True)
    called = maskdpo(name, "--help")
    assert called.stdout.startswith(f"usage: maskdpo {name} ")
    assert done.stdout.startswith(f"usage: python -m maskdpo_ray.{name} ")
    one, other = (
        each.replace(f"python -m maskdpo_ray.{name}", f"maskdpo {name}") for each in (called.stdout, done.stdout)
    )
    assert one.split() == other.split()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["trian"], "error: expected a command, got 'trian'; did you mean train? (see --help)"),
        (["check-annotator"], "error: expected a command, got 'check-annotator'; did you mean check_annotator?"),
        (["--config", "x"], "error: expected a command, got '--config'; known: run, annotate, "),
        ([], "error: expected a command, got nothing; known: run, annotate, "),
    ],
)
def test_an_unknown_command_is_one_line(words: list[str], error: str) -> None:
    done = maskdpo(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(error) and done.stderr.count("\n") == 1


def test_a_users_error_ends_as_it_does_under_the_modules_own_name() -> None:
    done = maskdpo("pairs", "a", "b", "-o", "c", "--config", "no-such.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no-such.yaml: expected a config file, got: No such file or directory\n"


def test_the_package_installs_it() -> None:
    (script,) = (each for each in entry_points(group="console_scripts") if each.name == "maskdpo")
    assert script.load() is __main__.main
