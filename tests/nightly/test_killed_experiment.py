"""An experiment with real engines and ranks that is killed three times ends with the table of the undisturbed one."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny_run
import yaml
from driver import Driver

pytestmark = pytest.mark.timeout(3600)
COMMAND = (sys.executable, "-m", "maskdpo_ray.experiment")
VICTIMS = ("experiment", "run", "all")
_RUN = "maskdpo_ray.run"
_END_S = 120.0
"""Longest that what a kill left may take to end."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms with two seeds, an iteration each: the second arm of a seed shares its answers."""
    folder = tmp_path_factory.mktemp("killed")
    options = {**tiny_run.OPTIONS, "run.iterations": 1, "run.keep": "last"}
    tiny_run.write_config(folder, options)
    arms = {"masked": {}, "unmasked": {"mask.policy": "vanilla"}}
    text = yaml.safe_dump({"base": "config.yaml", "seeds": [1, 2], "arms": arms, "baseline": "unmasked"})
    (folder / "masks.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """The folder of the experiment that nobody killed."""
    with started(folder, "undisturbed", 0) as driver:
        assert driver.wait(1800) == 0, driver.output
    return folder / "undisturbed/masks"


def started(folder: Path, name: str, attempt: int) -> Driver:
    arguments = [str(folder / "masks.yaml"), "--dir", str(folder / name)]
    return Driver(arguments, folder / f"{name}-{attempt}.log", COMMAND)


def committed(experiment: Path) -> int:
    """Bytes of all that tells how far the runs are."""
    return sum(file.stat().st_size for file in experiment.glob("runs/*/**/*.jsonl"))


def victims(driver: Driver, kind: str) -> Iterator[psutil.Process]:
    """Processes that a kill hits: the command alone, its run alone, or everything, as when a machine fails."""
    command = psutil.Process(driver.process.pid)
    if kind == "experiment":
        yield command
    elif kind == "all":
        yield from driver.left()
    else:
        yield from (each for each in command.children() if _RUN in each.cmdline())


def kill(driver: Driver, kind: str) -> bool:
    """Kill as soon as there is somebody; false when the command ends before."""
    while driver.process.poll() is None:
        found = list(victims(driver, kind))
        for process in found:
            process.kill()
        if found:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("seed", range(2))
def test_killed_three_times(folder: Path, undisturbed: Path, seed: int) -> None:
    """At moments that chance draws, the command, a run or all at once; each time the same command goes on."""
    chance, name = random.Random(seed), f"killed-{seed}"
    moments = sorted(chance.uniform(0.02, 0.9) * committed(undisturbed) for _ in range(3))
    kinds = chance.sample(VICTIMS, 3)
    for attempt, (moment, kind) in enumerate(zip(moments, kinds, strict=True)):
        with started(folder, name, attempt) as driver:
            driver.wait_for(lambda moment=moment: committed(folder / name / "masks") >= moment, 1800)
            assert kill(driver, kind), driver.output
            code = driver.wait(1800)
            assert code == (2 if kind == "run" else -9), driver.output  # the others went their way
            psutil.wait_procs(driver.left(), timeout=_END_S)  # the run of a killed command ends in order
    with started(folder, name, 3) as driver:
        assert driver.wait(1800) == 0, driver.output
    for file in ("table.json", "table.md", "table.csv"):
        assert (folder / name / "masks" / file).read_bytes() == (undisturbed / file).read_bytes()
