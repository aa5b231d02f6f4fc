#!/usr/bin/env python3
"""Merge what was resolved for several Pythons into one lock file with SHA-256 hashes; called by scripts/lock.sh.

Reads pylock.toml files (PEP 751), which list only files that fit the platform they were resolved for. A package is
locked by its wheels there, and by its source distribution only where it has none.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

HEADER = """\
# {title}, for Linux on x86-64 and CPython 3.11 and 3.12.
# Made by scripts/lock.sh from {name}.in, common.in and the .overrides files: edit those.
# Installed by scripts/install.sh --{name}
"""
TITLES = {"cpu": "The environment without CUDA", "gpu": "The environment with CUDA"}
ENTRY = re.compile(r"^([a-z0-9-]+)==([^ \\]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)

Pins = dict[str, tuple[str, set[str]]]  # name -> version, SHA-256 of each file


def locked(text: str) -> Pins:
    """Return the entries of a lock file."""
    return {
        name: (version, set(re.findall("sha256:([0-9a-f]{64})", hashes)))
        for name, version, hashes in ENTRY.findall(text)
    }


def resolved(text: str) -> Pins:
    """Return the packages of a pylock.toml."""
    pins = {}
    for package in tomllib.loads(text)["packages"]:
        files = package.get("wheels") or [package["sdist"]]
        pins[package["name"]] = package["version"], {file["hashes"]["sha256"] for file in files}
    return pins


def merged(first: Pins, others: list[Pins], old: Pins) -> Pins:
    """Return the pins of one lock: `first`, the lowest Python's, with the files that the `others` need.

    Hashes of the lock before are kept where the version is the same: not every machine that makes a lock finds each
    Python's CPU build of torch.

    Raises:
        ValueError: another Python needs a package or a version that `first` lacks.
    """
    pins = {name: (version, set(hashes)) for name, (version, hashes) in first.items()}
    for other in others:
        for name, (version, hashes) in other.items():
            if name not in pins or pins[name][0] != version:
                has = pins[name][0] if name in pins else "none"
                raise ValueError(f"{name}: one Python needs {version}, the lowest {has}: pin it in the .in file")
            pins[name][1].update(hashes)
    for name, (version, hashes) in old.items():
        if name in pins and pins[name][0] == version:
            pins[name][1].update(hashes)
    return pins


def written(name: str, pins: Pins) -> str:
    """Return the text of the lock file of the flavour `name`."""
    entries = (
        f"{package}=={version}" + "".join(f" \\\n    --hash=sha256:{one}" for one in sorted(hashes)) + "\n"
        for package, (version, hashes) in sorted(pins.items())
    )
    return HEADER.format(title=TITLES[name], name=name) + "".join(entries)


def main() -> int:
    """Command line: read what was resolved, write the lock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", type=Path, help="file to write: cpu.lock or gpu.lock")
    parser.add_argument("resolved", type=Path, nargs="+", help="a pylock.toml for each Python, the lowest first")
    options = parser.parse_args()
    first, *others = (resolved(path.read_text(encoding="utf-8")) for path in options.resolved)
    old = locked(options.lock.read_text(encoding="utf-8")) if options.lock.exists() else {}
    try:
        pins = merged(first, others, old)
    except ValueError as error:
        print(f"lock: {options.lock}: {error}", file=sys.stderr)
        return 1
    options.lock.write_text(written(options.lock.stem, pins), encoding="utf-8")
    print(f"lock: {options.lock}: {len(pins)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
