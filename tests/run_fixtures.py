"""Fixtures that the tests of the command line share, in two tiers: import what a folder's conftest.py is to offer."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run
from driver import REPOSITORY, adopt_orphans
from finished_run import SMALLEST


@pytest.fixture(scope="session", autouse=True)
def orphans() -> None:
    """Lost processes become children of the tests, who can tell that they are there."""
    adopt_orphans()


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of this session's runs."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tiny(runs_dir: Path) -> Path:
    """The config file of a run that costs no more than the start of its actors."""
    (runs_dir / "tiny").mkdir()
    return tiny_run.write_config(runs_dir / "tiny")


@pytest.fixture(scope="session")
def smallest(bundled_model: Path, runs_dir: Path) -> Path:
    """configs/smoke.yaml made smaller, as a config file: a model that speaks."""
    text = (REPOSITORY / "configs" / "smoke.yaml").read_text(encoding="utf-8")
    options = {**SMALLEST, "model.model_name_or_path": str(bundled_model)}
    file = runs_dir / "smallest.yaml"
    file.write_text(tiny_run.with_options(text, options), encoding="utf-8")
    return file
