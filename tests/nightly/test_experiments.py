"""Every experiment of configs/experiments would start: all arms pass the checks of a run; its twin for the papers' own
models passes those of a dry run, with models and data in place, and of `plan`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from maskdpo_ray import experiment as command
from maskdpo_ray import plan
from maskdpo_ray.config import cli
from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.records import Question, encode_line
from maskdpo_ray.report.experiments.table import METRICS
from maskdpo_ray.stages import preflight

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
TWINS = sorted((FOLDER / "paper").glob("*.yaml"))
NUM_TOPICS = 1800
"""Topics of the data sets that stand for the papers': more than two thirds of Mask-DPO's 2,682."""


@pytest.fixture
def here(bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the repository's configs and the bundled model."""
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/smollm2-135m-instruct").symlink_to(bundled_model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_halves(folder: Path, questions: Sequence[Question], held_out: Iterable[Question]) -> None:
    """Files as `analyze topic_neighbours` leaves them, of any halves."""
    folder.mkdir(parents=True)
    topics = list(dict.fromkeys(question.topic for question in questions))
    for name in ("policy", "minilm", "random"):
        for side, own in (("near", topics[::2]), ("far", topics[1::2])):
            (folder / f"topics-{name}-{side}.txt").write_text("".join(f"{topic}\n" for topic in own))
    for side, start in (("near", 0), ("far", 1)):
        (folder / f"questions-policy-{side}.jsonl").write_bytes(b"".join(map(encode_line, questions[start::2])))
    (folder / "questions-heldout.jsonl").write_bytes(b"".join(map(encode_line, held_out)))


def dry_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All arms are checked, and nothing is written."""
    command.main([str(file.relative_to(ROOT)), "--dry_run"])
    said = capsys.readouterr().out
    assert said.startswith(f"experiment {file.stem} in experiments/{file.stem}\n") and " 0 finished" in said
    assert not Path("experiments").exists()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_dry_run(here: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = "many" if file.stem == "near_far_questions" else "small"
    splits = preflight.load_questions(cli.read(FOLDER / f"base/{base}.yaml").data).questions
    in_halves(here / "analyses", splits["train"], splits["heldout"])
    dry_run(file, capsys)


@pytest.mark.parametrize("file", TWINS, ids=lambda file: file.stem)
def test_a_twin(here: Path, bundled_model: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled model stands for every model, and questions about numbers for every data set."""
    experiment = experiment_file.read(file, here, tuple(METRICS))
    assert file.stem in {each.stem for each in FILES}
    configs = {run.arm: run.config for run in experiment.runs}
    assert all(config.cluster.device == "cuda" for config in configs.values())
    for name in (
        *("Llama-3.1-8B-Instruct", "Llama-2-7b-chat-hf", "Qwen2-7B-Instruct", "internlm2-chat-7b-sft"),
        *("Baichuan-13B-Chat", "gpt2", "anah-v2"),
    ):
        (here / "models" / name).symlink_to(bundled_model)
    (here / "data").mkdir()
    for number, name in enumerate(
        ("anah_train", "anah_test", "biographies_train", "biographies_test", "fava", "factualbench_train")
        + ("factualbench_test", "triviaqa")
    ):
        topics = NUM_TOPICS if (file.stem, name) == ("scaling", "anah_train") else 20
        write_questions(here / "data" / f"{name}.jsonl", f"{number}-", topics, 3)
    splits = preflight.load_questions(cli.read(ROOT / "configs/paper.yaml").data).questions
    in_halves(here / "analyses/paper", splits["train"], splits["heldout"])
    dry_run(file, capsys)
    for arm, config in configs.items():
        (here / "arm.yaml").write_text(cli.to_yaml(config))
        sizes = ["--model_size", "8b", "--annotator_size", "internlm2-7b", "--num_gpus", "16", "--num_nodes", "2"]
        plan.main(["--config", "arm.yaml", *sizes])
        assert ": fits, " in capsys.readouterr().out, arm


def write_questions(file: Path, prefix: str, num_topics: int, each: int) -> None:
    lines = [
        {
            "id": f"{prefix}{topic}/{number}",
            "topic": f"{prefix}{topic}",
            "prompt": f"What is {prefix}{topic} plus {number}?",
            "document": f"{prefix}{topic} plus {number} is a sum.",
            "answer": f"sum {number}",
            "wrong_answers": [f"difference {number}"],
        }
        for topic in range(num_topics)
        for number in range(each)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
