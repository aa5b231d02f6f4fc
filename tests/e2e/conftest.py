"""What the tests of the command line share: a small run of a real model and a tiny one, each done once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_run
from driver import REPOSITORY, Driver, adopt_orphans
from finished_run import SMALLEST, Run, arguments, finish


@pytest.fixture(scope="session", autouse=True)
def orphans() -> None:
    """Lost processes become children of the tests, who can tell that they are there."""
    adopt_orphans()


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this session's runs lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def smallest(bundled_model: Path, runs_dir: Path) -> Path:
    """configs/smoke.yaml made smaller, as a config file."""
    text = (REPOSITORY / "configs" / "smoke.yaml").read_text(encoding="utf-8")
    options = {**SMALLEST, "model.model_name_or_path": str(bundled_model)}
    file = runs_dir / "smallest.yaml"
    file.write_text(tiny_run.with_options(text, options), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def masked_run(runs_dir: Path, smallest: Path) -> Iterator[Run]:
    """Two iterations of Mask-DPO on a local Ray cluster, with W&B on disk."""
    folder = runs_dir / "masked"
    options = arguments(folder, smallest, logger__wandb_mode="offline")
    with Driver(options, runs_dir / "masked.log") as driver:
        driver.wait_for(lambda: (folder / "eval_000" / "heldout.json").exists())
        listening = frozenset(driver.listening())
        run = dataclasses.replace(finish(driver, folder), listening=listening)
    assert run.code == 0, run.output
    yield run


@pytest.fixture(scope="session")
def tiny(runs_dir: Path) -> Path:
    """The config file of a run that costs no more than the start of its actors."""
    (runs_dir / "tiny").mkdir()
    return tiny_run.write_config(runs_dir / "tiny")


@pytest.fixture(scope="session")
def undisturbed(runs_dir: Path, tiny: Path) -> Run:
    """The tiny run of two iterations, let alone."""
    with Driver(arguments(runs_dir / "undisturbed", tiny), runs_dir / "undisturbed.log") as driver:
        run = finish(driver, runs_dir / "undisturbed")
    assert run.code == 0, run.output
    return run
