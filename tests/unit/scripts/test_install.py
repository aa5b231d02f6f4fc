"""scripts/install.sh: what it decides and what it asks pip for, with interpreters that only write down their calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

INTERPRETER = """\
#!/usr/bin/env bash
# A Python {version} that makes environments of itself and installs nothing.
echo "$*" >>"{log}"
case "$*" in
    *_base_executable*) echo "{version} {path}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "{path}" "$3/bin/python" ;;
    *"-r "*"{fails}"*) exit 1 ;;
    *"-r "*) grep -oE "^[a-z0-9][^ ]*" "${{@: -1}}" >>"{log}" ;;
esac
"""


class Clone:
    """A folder with what the script reads, and stand-ins for interpreters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "calls.log"
        for name in ("scripts/install.sh", "setup.cfg", "pyproject.toml"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "requirements", root / "requirements")

    def interpreter(self, version: str, fails: str = "never") -> Path:
        """Write a stand-in that cannot install requirement files of the name `fails`."""
        path = self.root / f"bin-{version}-{fails}" / f"python{version}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(INTERPRETER.format(version=version, path=path, log=self.log, fails=fails), encoding="utf-8")
        path.chmod(0o755)
        return path

    def install(self, *arguments: str, python: Path | str | None = None) -> subprocess.CompletedProcess[str]:
        """Call the script; without `python`, no variable names one."""
        self.log.write_text("", encoding="utf-8")
        variables = {"PATH": "/usr/bin:/bin", "MASKDPO_TORCH_INDEX": "file:///index"}
        if python is not None:
            variables["PYTHON"] = str(python)
        return subprocess.run(
            ["bash", str(self.root / "scripts/install.sh"), *arguments],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> set[str]:
        """Return the pins that the last call asked pip for."""
        return {line for line in self.log.read_text(encoding="utf-8").splitlines() if line[0] != "-" and "==" in line}

    def made(self) -> bool:
        """Whether the last call made an environment."""
        return any(call.startswith("-m venv") for call in self.log.read_text(encoding="utf-8").splitlines())


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def pins(flavour: str) -> set[str]:
    text = (ROOT / f"requirements/{flavour}.lock").read_text(encoding="utf-8")
    return {line.removesuffix(" \\") for line in text.splitlines() if line[0] not in "# "}


def test_without_a_flag_the_whole_lock_for_cpus_is_installed(clone: Clone) -> None:
    done = clone.install(python=clone.interpreter("3.11"))
    assert done.returncode == 0, done.stderr
    assert clone.installed() == pins("cpu")


def test_every_pinned_file_is_checked_by_its_hash(clone: Clone) -> None:
    clone.install("--gpu", python=clone.interpreter("3.11"))
    calls = [call for call in clone.log.read_text(encoding="utf-8").splitlines() if " -r " in call]
    assert calls and all("--require-hashes" in call and "--no-deps" in call for call in calls)


def test_an_environment_stays_what_it_is(clone: Clone) -> None:
    clone.install("--gpu", python=clone.interpreter("3.12"))
    assert clone.installed() == pins("gpu")
    again = clone.install()
    assert again.stdout == "install: .venv (gpu, Python 3.12) is up to date\n"
    assert not clone.made()


def test_a_flag_turns_it_into_the_other_kind(clone: Clone) -> None:
    python = clone.interpreter("3.11")
    clone.install("--gpu", python=python)
    (clone.root / ".venv/left-over").touch()
    clone.install("--cpu")
    assert clone.installed() == pins("cpu")
    assert not (clone.root / ".venv/left-over").exists()


def test_another_python_makes_it_anew(clone: Clone) -> None:
    clone.install(python=clone.interpreter("3.11"))
    assert "starting over" in clone.install(python=clone.interpreter("3.12")).stdout
    assert clone.made()


def test_a_changed_lock_makes_it_anew_on_the_same_python(clone: Clone) -> None:
    clone.install(python=clone.interpreter("3.12"))
    with (clone.root / "requirements/cpu.lock").open("a", encoding="utf-8") as lock:
        lock.write("# changed\n")
    done = clone.install()
    assert "starting over" in done.stdout
    assert "(cpu) with Python 3.12" in done.stdout


def test_an_installation_that_was_cut_off_is_made_anew_as_the_same_kind(clone: Clone) -> None:
    assert clone.install("--gpu", python=clone.interpreter("3.11", fails="others.txt")).returncode != 0
    done = clone.install(python=clone.interpreter("3.11"))
    assert "(gpu)" in done.stdout
    assert clone.installed() == pins("gpu")


def test_torch_with_cuda_comes_from_the_package_index(clone: Clone) -> None:
    python = clone.interpreter("3.11")
    clone.install("--cpu", python=python)
    assert "--index-url file:///index" in clone.log.read_text(encoding="utf-8")
    clone.install("--gpu", python=python)
    assert "--index-url" not in clone.log.read_text(encoding="utf-8")


def test_a_foreign_environment_is_not_touched(clone: Clone) -> None:
    (clone.root / ".venv").mkdir()
    (clone.root / ".venv/pyvenv.cfg").touch()
    done = clone.install(python=clone.interpreter("3.11"))
    assert done.returncode == 1
    assert done.stderr == f"install: {clone.root}/.venv was not made by this script: move it away\n"
    assert (clone.root / ".venv/pyvenv.cfg").exists()


@pytest.mark.parametrize("python", ["3.13", "absent"])
def test_other_pythons_are_refused(clone: Clone, python: str) -> None:
    path = clone.interpreter(python) if python != "absent" else Path("/absent/python")
    done = clone.install(python=path)
    assert done.returncode == 1
    assert done.stderr == (
        f"install: Python 3.11 or 3.12 is needed, and none runs as {path}: install one, or name it with PYTHON=...\n"
    )
    assert not (clone.root / ".venv").exists()


def test_unknown_flags_are_refused(clone: Clone) -> None:
    done = clone.install("--tpu")
    assert done.returncode == 1
    assert done.stderr == "install: expected --cpu, --gpu or nothing, got: --tpu\n"
