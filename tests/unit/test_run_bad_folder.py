"""A run folder that a run can't go on in, case by case, as test_bad_input.py has bad configs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import fakes
import pytest
from bad_input import QUESTIONS, Case, Change, lines, refuses, write

from actors import weights
from maskdpo_ray import run
from maskdpo_ray.config import cli
from maskdpo_ray.stages import preflight
from maskdpo_ray.store.run_folder import RunFolder

OPEN = RunFolder.open
"""Before the good folder takes it away."""
LEDGER, POLICY = "runs/r/ledger.jsonl", "runs/r/iter_000/policy"
ASK = "--config config.yaml"


def line(number: int, **fields: object) -> Change:
    """Set fields of a line of the ledger."""

    def change(folder: Path) -> None:
        entries = [json.loads(each) for each in (folder / LEDGER).read_text().splitlines()]
        entries[number] |= fields
        (folder / LEDGER).write_text(lines(*entries))

    return change


CASES: dict[str, Case] = {
    "another option": (
        None,
        f"{ASK} --train.beta 0.2",
        "train.beta: expected 0.1, as the run in {}/runs/r began with, got 0.2; give it back or choose another "
        "run.name",
    ),
    "other questions": (
        write("questions.jsonl", lines(*QUESTIONS, {"id": "d", "prompt": "What is d?"})),
        ASK,
        "data, train questions: expected those that the run in {}/runs/r began with, got others; give them back or "
        "choose another run.name",
    ),
    "a policy cut off": (
        lambda folder: os.truncate(folder / POLICY / "model.safetensors", 100),
        ASK,
        f"{{}}/{POLICY}/model.safetensors: changed after stage 'train' left it: expected ...",
    ),
    "a policy without its config": (
        lambda folder: (folder / POLICY / "config.json").unlink(),
        ASK,
        f"{{}}/{POLICY}/config.json: expected the file that stage 'train' left, got none",
    ),
    "a damaged ledger": (
        lambda folder: (folder / LEDGER).write_text((folder / LEDGER).read_text()[5:]),
        ASK,
        f"{{}}/{LEDGER}, line 1: expected a JSON object with a stage, got ...",
    ),
    "no ledger": (
        write(LEDGER, ""),
        ASK,
        f"{{}}/{LEDGER}: expected a line of the run's beginning, as iter_000/questions.jsonl holds answers, got none; "
        "restore the ledger or choose another run.name",
    ),
    "a ledger of a newer version": (
        line(0, schema=9),
        ASK,
        f"{{}}/{LEDGER}, line 1: schema: expected 3, got 9: a run folder of a newer version, which this version does "
        "not read",
    ),
    "a ledger of an earlier version": (
        line(0, schema=1),
        ASK,
        f"{{}}/{LEDGER}, line 1: schema: expected 3, got 1: a run folder of an earlier version, which this version "
        "does not read",
    ),
    "a ledger that leads elsewhere": (
        line(2, logs={"../../elsewhere": {"bytes": 1, "sha256": "", "counts": {}}}),
        ASK,
        f"{{}}/{LEDGER}, line 3: logs: expected paths within the run folder, got '../../elsewhere'",
    ),
    "no config": (
        write("runs/r/config.yaml", "run: ["),
        ASK,
        "{}/runs/r/config.yaml:1: can't be read as YAML: expected the node content, but found '<stream end>'",
    ),
}


@pytest.fixture
def begun(good_folder: Path) -> Path:
    """The good folder with a run whose first iteration is done."""
    config = cli.read(Path("config.yaml"))
    prepared = preflight.check(config)
    with OPEN("runs/r", cli.resolved(config), {}) as folder:
        folder.begin(weights.publish("model", 0), {"train": prepared.train, **prepared.evaluation})
        folder.questions(0).commit(fakes.committed("a", (), (), "same_score"))
        shutil.copytree("model", folder.policy_dir(0))
        folder.finish("train", 0, [folder.policy_dir(0)], checksum="c")
    return good_folder


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(begun: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    refuses(run.main, CASES[name], begun, capfd)
