"""Inputs of sources: what is left out of files."""

from __future__ import annotations

import json
from pathlib import Path

import bad_input
import pytest

from maskdpo_ray import run
from maskdpo_ray.errors import DataError


def dry_run(folder: Path, *topics: str) -> None:
    """A dry run whose atomic questions are on these topics; A, B and C are trained on or held out."""
    bad_input.small_model(folder / "model")
    asked = [{"id": name, "topic": name, "prompt": f"What is {name}?", "document": "A text."} for name in "ABC"]
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in asked))
    (folder / "held-out.jsonl").write_text(json.dumps(asked.pop() | {"id": "D", "topic": "D", "prompt": "D?"}))
    atoms = [{"id": f"atom-{name}", "topic": name, "prompt": f"Is it {name}?", "answer": "Yes"} for name in topics]
    (folder / "atoms.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in atoms))
    options = {
        "atoms.max_new_tokens": "8",
        "model.model_name_or_path": "model",
        "data.train": "questions.jsonl",
        "data.eval": "held-out.jsonl",
        "annotation.annotator": "python:docs.numbers_annotator:NumbersAnnotator",
        "atoms.n_samples_per_prompt": "2",
        "atoms.questions": "atoms.jsonl",
    }
    (folder / "config.yaml").write_text("rollout: {max_new_tokens: 64}")
    given = (word for name, value in options.items() for word in (f"--{name}", value))
    run.main(["--config", "config.yaml", "--dry_run", *given])


def test_atomic_questions_on_evaluated_topics_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dry_run(tmp_path, "A", " d ", "D", "E")
    assert "atoms.questions: 2 of 4 questions left out: their topics are evaluated" in capsys.readouterr().err
    with pytest.raises(DataError, match="^--atoms.questions: expected questions on other topics than the evaluated"):
        dry_run(tmp_path, "D")
