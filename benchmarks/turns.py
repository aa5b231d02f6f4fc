"""Contenders that take turns, each turn in a process of its own: `SCRIPT ... --only NAME --json FILE`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measures

Outcome = dict[str, Any]


def options(made: argparse.ArgumentParser, names: Sequence[str], repeats: int) -> None:
    """Those that `run` reads, added to a script's own, and the number of threads."""
    made.add_argument("--threads", type=measures.count, default=len(os.sched_getaffinity(0)))
    made.add_argument("--contenders", nargs="+", choices=names, default=list(names))
    of_turns(made, names, repeats)


def of_turns(made: argparse.ArgumentParser, names: Sequence[str], repeats: int) -> None:
    """Those that `run` reads, all of `names` taking part."""
    made.set_defaults(contenders=list(names))
    made.add_argument("--repeats", type=measures.count, default=repeats)
    made.add_argument("--only", choices=names, help="take this one's turn, in this process")
    measures.json_option(made)


def run(
    script: Path,
    words: Sequence[str],
    given: argparse.Namespace,
    take_part: Callable[[str], Outcome],
    said: Callable[[Outcome], str],
    report: Callable[[dict[str, list[Outcome]]], dict[str, Any]],
    shown: Callable[[dict[str, Any]], str],
) -> None:
    """All turns and the table, or with `--only` one contender's turn here; figures go to `--json`.

    `words` are the command line of `script`, `given` what they say; `said` is of one turn, a few words.
    """
    if given.only:
        found = take_part(given.only)
        print(found)
    else:
        outcomes: dict[str, list[Outcome]] = {name: [] for name in given.contenders}
        for number in range(given.repeats):
            for name in given.contenders:
                outcome = _apart(script, words, name)
                outcomes[name].append(outcome)
                print(f"turn {number + 1} of {given.repeats}: {name}: {said(outcome)}", file=sys.stderr, flush=True)
        found = report(outcomes)
        print(shown(found))
    measures.keep(found, given.json)


def _apart(script: Path, words: Sequence[str], name: str) -> Outcome:
    """A turn in another process. Raises SystemExit when it fails."""
    own = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "outcome.json", Path(folder) / "log"
        command = [sys.executable, str(script), *words, "--only", name, "--json", str(output)]
        with log.open("wb") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **own})
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{log.read_text(errors='replace')[-3000:]}")
        found: Outcome = json.loads(output.read_text())
        return found


def ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """`one` over `other`, turn by turn: the spread."""
    return measures.spread([mine / its for mine, its in zip(one, other, strict=True)])
