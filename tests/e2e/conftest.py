"""Shared by the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_model
import tiny_run
from finished_run import SMALLEST
from run_fixtures import orphans, runs_dir, smallest  # noqa: F401
from scripted_judge import ScriptedServer


@pytest.fixture(scope="session")
def story(runs_dir: Path) -> Iterator[Path]:  # noqa: F811
    """The config file of a run with every part that costs no more than the start of its actors."""
    with ScriptedServer(script=scripted_model.reply) as judge:
        yield tiny_run.write_story(runs_dir, judge.url, SMALLEST)
