"""What the tests of the command line share: the smallest real run, done once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driver import Driver, adopt_orphans, describe

from maskdpo_ray.formats import WRITERS
from maskdpo_ray.formats.preference import Answer, Preference
from maskdpo_ray.ledger import encode_line
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Sentence

SMALLEST = {
    "data.max_questions": 6,
    "data.num_eval_topics": 3,
    "data.num_transfer_topics": 2,
    "rollout.max_in_flight": 2,  # questions finish one after the other, so that a run can be stopped among them
    "train.batch_size": 2,
    "train.max_epochs": 2,  # steps enough to be stopped among them
    "eval.bootstrap_samples": 100,
    "vllm.dtype": "float32",  # runs are compared answer by answer
}
"""What makes configs/smoke.yaml smaller still; figures mean nothing, every part runs."""


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    folder: Path
    code: int
    output: str
    left: list[str]
    """Processes that it left behind."""
    listening: frozenset[tuple[str, str]] = frozenset()
    """(process name, address) of the sockets that its processes listened on, where somebody looked."""

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A JSON Lines file of the run folder, every line an object."""
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]

    def read(self, name: str) -> Any:
        """A JSON file of the run folder."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def arguments(folder: Path, config: Path, **overrides: Any) -> list[str]:
    """Of a run in `folder`; overrides by dotted name, `__` for the dot."""
    given = {"run.dir": folder.parent, "run.name": folder.name}
    given |= {name.replace("__", "."): value for name, value in overrides.items()}
    return ["--config", str(config), *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def finish(driver: Driver, folder: Path) -> Run:
    """Wait for a run's end and look what it left."""
    code = driver.wait()
    return Run(folder, code, driver.output, describe(driver.left()))


def write_pairs(file: Path) -> None:
    """Four labelled pairs, in the authors' format."""

    def answer(text: str, label: str) -> Answer:
        return Answer(text, (Sentence(0, len(text), label),))

    pairs = [
        Preference(
            name,
            name,
            ({"role": "user", "content": f"Tell me about {name}."},),
            answer(f"{name} is a country.", NO_HALLUCINATION),
            answer(f"{name} is a river.", CONTRADICTORY),
        )
        for name in ("Rwanda", "Peru", "Laos", "Chad")
    ]
    file.write_bytes(b"".join(encode_line(WRITERS["anah"](pair)) for pair in pairs))


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
    import yaml
    from driver import REPOSITORY

    values = yaml.safe_load((REPOSITORY / "configs" / "smoke.yaml").read_text(encoding="utf-8"))
    for name, value in SMALLEST.items():
        section, field = name.split(".")
        values.setdefault(section, {})[field] = value
    values["model"]["model_name_or_path"] = str(bundled_model)
    file = runs_dir / "smallest.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
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
