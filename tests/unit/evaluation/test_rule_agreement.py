"""Files of hand labels, and the command that reads them: one line about the first fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.analyses import rule_agreement

TEXT = "Its capital is Kigali. Who knows."
ROW = {
    "split": "dev",
    "question_id": "countries/rwanda",
    "text": TEXT,
    "sentence": TEXT[:22],
    "start": 0,
    "end": 22,
    "label": "no_hallucination",
}


def test_a_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(ROW))
    ((row, question, where),) = rule_agreement.read(file)
    assert (row, question.topic, where) == (rule_agreement.HandLabel(**ROW), "Rwanda", f"{file}:1")  # type: ignore[arg-type]


FAULTS = {
    "JSON": ("{", ":1: expected a JSON object, got one whose brackets or quotes are not closed"),
    "list": ("[]", ": expected JSON objects, got none"),
    "empty": ("", ": expected JSON objects, got none"),
    "missing": ('{"split": "dev"}', ":1: missing field 'question_id' in the hand label"),
    "type": (json.dumps(ROW | {"start": "0"}), ":1: field 'start': expected int, got str '0'"),
    "question": (json.dumps(ROW | {"question_id": "x"}), ":1: question_id: expected a built-in question, got 'x'"),
    "label": (json.dumps(ROW | {"label": "x"}), ":1: label: expected one of no_fact, "),
    "sentence": (json.dumps(ROW | {"end": 21}), ":1: sentence: expected the answer's from 0 to 21, got 'Its capital"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        rule_agreement.main([str(file)])
    assert str(caught.value).startswith(f"{file}{message}") and "\n" not in str(caught.value)


def test_a_sentence_that_the_annotator_does_not_find(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(ROW | {"sentence": TEXT[:5], "end": 5}))
    with pytest.raises(DataError, match="labels.jsonl:1: sentence: expected one that the annotator finds, got 'Its c'"):
        rule_agreement.main([str(file)])


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["x" * 5000]])
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(DataError, match="^usage: "):
        rule_agreement.main(arguments)


def test_rules_that_judge_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(ROW | {"sentence": TEXT[23:], "start": 23, "end": 33}))
    rule_agreement.main([str(file)])
    assert capsys.readouterr().out.splitlines()[-1] == "| dev | 1 | 0 | - | 0 of 0 | 0 of 0 |"
