"""A run of the command line that has ended, and what starts the smallest one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driver import Driver, describe

from maskdpo_ray.data.formats import WRITERS
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Sentence, encode_line

SMALLEST = {
    "data.max_questions": 6,
    "data.num_eval_topics": 3,
    "data.num_transfer_topics": 2,
    "train.batch_size": 2,
    "eval.bootstrap_samples": 100,
    "vllm.dtype": "float32",  # runs are compared answer by answer
}
"""Options that make configs/smoke.yaml smaller still; figures mean nothing, every part runs."""


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

    def parts(self, log: str, part: str) -> list[dict[str, Any]]:
        """Rollouts, annotations or judgements of all questions of a log, in its order."""
        return [each for question in self.lines(f"{log}questions.jsonl") for each in question[part]]

    def read(self, name: str) -> Any:
        """A JSON file of the run folder."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def arguments(folder: Path, config: Path, **overrides: Any) -> list[str]:
    """Command line of a run in `folder`; overrides by dotted name, `__` for the dot."""
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
