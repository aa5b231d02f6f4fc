"""Run folders and model folders of which one file is what nobody would write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fakes
import fuzz
import numpy as np
import pytest
from test_run_folder import CONFIG, VERSIONS, answer, unit
from test_summary import FULL, SHORT, make, write_choice

from maskdpo_ray.config.schema import LoggerConfig, ModelConfig
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import JudgedFact, Judgement, Surprisal, TrainingExample, encode_line
from maskdpo_ray.report import summary
from maskdpo_ray.report.comparison import FinishedRun, table
from maskdpo_ray.store import fingerprint
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.training import reference
from maskdpo_ray.training.example_store import ExampleStore

JUDGED = {**CONFIG, "eval": {"evaluator": "factscore"}}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every kind of ledger line and of file."""
    path = tmp_path_factory.mktemp("begun") / "run"
    with RunFolder.open(path, JUDGED, VERSIONS) as folder:
        for name in ("q0", "q1", "q2"):
            folder.questions(0).commit(fakes.committed(name, *unit(name)))
        policy = folder.policy_dir(0)
        policy.mkdir()
        (policy / "model.safetensors").write_bytes(b"weights")
        folder.finish("train", 0, [policy], checksum="c")
        judgement = Judgement("h0", 0, (JudgedFact("f", "supported"),), surprisal=Surprisal(1.5, 2))
        folder.evaluated(1, "heldout").commit(
            fakes.committed("h0", *([each] for each in answer("h0")), judgements=[judgement])
        )
    return path


def go_on(path: Path) -> None:
    """Files that a resumed run reads."""
    RunFolder.check(path, JUDGED)
    with RunFolder.open(path, JUDGED, VERSIONS) as folder:
        list(folder.questions(0).pairs())
        folder.questions(0).drops()
        list(folder.evaluated(1, "heldout").answers())
        list(folder.evaluated(1, "heldout").judgements())
        if folder.finished("train", 0) is not None:
            folder.check_files("train", 0)


def in_copy(original: Path, copy: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A reader of a copy of a folder whose file `name` holds the bytes; what lies around the copy stays as it is."""

    def read_bytes(data: bytes) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        (copy / name).write_bytes(data)
        try:
            read(copy)
        finally:
            assert list(copy.parent.iterdir()) == [copy]

    return read_bytes


FILES = ("config.yaml", "ledger.jsonl", "iter_000/questions.jsonl", "eval_001/heldout-questions.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_run_folders(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    read = in_copy(begun, tmp_path / "a" / "run", name, go_on)
    (tmp_path / "a").mkdir()
    fuzz.check(read, (begun / name).read_bytes(), examples=30)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make(tmp_path_factory.mktemp("finished"), FULL, SHORT)
    write_choice(path, "best", 1, (0.5, 0.5), (0.75, 0.5))
    with Tracker(path, LoggerConfig(), {}) as tracker:
        for step in range(2):
            tracker.log({"timing/collect_s": 1.5, "tokens/collect": 7, "train/loss": 0.5, "idle/rollout": 0.25}, step)
    return path


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "eval_001/heldout.json", "eval_001/choice.json", "iter_000/pairs-summary.json"]
)
def test_summaries(finished: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    read = in_copy(finished, tmp_path / "a" / "run", name, lambda path: summary.render(summary.build(path)))
    fuzz.check(read, (finished / name).read_bytes(), lines=name == "metrics.jsonl", examples=30)


@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
def test_comparisons(finished: Path, tmp_path: Path, name: str) -> None:
    original = shutil.copytree(finished, tmp_path / "run")
    config = {**CONFIG, "run": {"name": "r", "seed": 3}, "mask": {"policy": "mask_dpo", "eos": "keep"}}
    (original / "config.yaml").write_bytes(
        fingerprint.config_text({**config, "eval": {"bootstrap_samples": 100}}, VERSIONS)
    )
    (original / "summary.json").write_bytes(encode_line(summary.build(original)))
    (original / "iter_000" / "questions.jsonl").write_bytes(b"")
    (tmp_path / "a").mkdir()
    read = in_copy(original, tmp_path / "a" / "run", name, lambda path: table([FinishedRun.read(path)] * 2))
    fuzz.check(read, (original / name).read_bytes(), lines=False, examples=30)


def test_reference_logps(tmp_path: Path) -> None:
    examples = ExampleStore.write(tmp_path, [TrainingExample.of_pair("p", (1,), (2, 3), (4,), (1.0, 1.0), (1.0,))])
    file = tmp_path / "logps.safetensors"
    logps = [(np.zeros(2, np.float32), np.zeros(1, np.float32))]
    reference.save(file, examples, logps, "5f")
    read = fuzz.from_file(file, lambda path: reference.load(path, examples, "5f"))
    fuzz.check(read, file.read_bytes(), lines=False)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json", "tokenizer.json"])
def test_models(small_model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    read = in_copy(small_model, tmp_path / "a" / "m", name, lambda path: model_folder.load(ModelConfig(str(path))))
    fuzz.check(read, (small_model / name).read_bytes(), lines=False, examples=30)
