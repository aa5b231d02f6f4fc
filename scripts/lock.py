#!/usr/bin/env python3
"""Turn a resolved list of pins into a lock file with one SHA-256 hash per package; called by scripts/lock.sh.

pip names, without installing anything, the file that it would take for each pin on this platform, and its hash.
Only that file's hash is written: the lock is for Linux on x86-64 and CPython 3.11, as the CPU build of torch is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = """\
# The CPU environment, for Linux on x86-64 and CPython 3.11.
# Made by scripts/lock.sh from cpu.in and cpu.overrides: edit those.
# Install with: pip install --no-deps --require-hashes -r requirements/cpu.lock
"""


def report(pins: Path) -> list[dict]:
    """Return what pip would install for the pins: the `install` list of its installation report."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "report.json")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--ignore-installed",
                "--no-deps",
                "--report",
                str(path),
                "--requirement",
                str(pins),
            ],
            check=True,
        )
        return json.loads(path.read_text(encoding="utf-8"))["install"]


def line(item: dict) -> str:
    """Return the lock's entry of one package."""
    name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={item['metadata']['version']} \\\n    --hash=sha256:{digest}\n"


def main() -> None:
    """Command line: read pins, write the lock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pins", type=Path, help="file with one name==version a line")
    parser.add_argument("lock", type=Path, help="file to write")
    options = parser.parse_args()
    items = report(options.pins)
    entries = sorted(map(line, items), key=lambda entry: entry.partition("==")[0])
    options.lock.write_text(HEADER + "".join(entries), encoding="utf-8")
    built = sorted(
        item["metadata"]["name"] for item in items if not item["download_info"]["url"].split("#")[0].endswith(".whl")
    )
    print(f"{options.lock}: {len(items)} packages; built from source: {', '.join(built) or 'none'}")


if __name__ == "__main__":
    main()
