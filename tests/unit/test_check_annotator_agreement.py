"""`check_annotator --labelled`: the annotator labels a labelled set, and its agreement is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import fakes
import pytest

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation.labelled_sets import OWN, Labelled, LabelledSet
from maskdpo_ray.errors import ConfigError, UserError
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, UNVERIFIABLE, Annotation, Question, Rollout, Sentence
from maskdpo_ray.report.agreement import render

CONFIG = ["--config", "docs/numbers.yaml"]


def written(file: Path, *texts: str) -> str:
    """Answers about the question `rwanda`, whose sentences are right where they name a year of its document."""
    rows = []
    for text in texts:
        label = NO_HALLUCINATION if "1962" in text else CONTRADICTORY
        rows.append(
            {"question_id": "rwanda", "text": text, "sentences": [{"start": 0, "end": len(text), "label": label}]}
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "own.jsonl", "It was in 1962.", "It was in 1990.", "It was in 1962 or so.")
    check_annotator.main([*CONFIG, "--labelled", file])
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if "agreement with 3 labelled answers (own)" in line)
    assert lines[first].startswith("      ok")
    assert lines[first + 1].startswith("3 sentences of 3 answers about 1 topics; ")
    rows = {line.split()[0]: line.split()[1:] for line in lines[first + 3 : first + 7]}
    assert rows[NO_HALLUCINATION] == ["2", "2", "1.000", "1.000", "1.000", "1.000"]
    assert rows[CONTRADICTORY] == ["1", "1", "1.000", "1.000", "1.000", "1.000"]
    assert rows[UNVERIFIABLE] == ["0", "0", "-", "-", "-", "-"]
    assert lines[first + 7] == "all classes: accuracy 1.000, balanced accuracy 1.000, kappa 1.000"


def test_a_sample_and_nothing_to_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "own.jsonl", *(f"It was in {year}." for year in range(1950, 1990)))
    found = check_annotator._sampled(check_annotator._load(file, [RWANDA], fakes.CONFIG, None), 5)
    assert len(found.answers) == 5 and found == check_annotator._sampled(
        check_annotator._load(file, [RWANDA], fakes.CONFIG, None), 5
    )
    with pytest.raises(ConfigError, match="--labelled: expected a labelled set for --split and --sample, got none"):
        check_annotator.main([*CONFIG, "--sample", "5"])
    with pytest.raises(UserError, match="expected a JSON file, got: No such file"):
        check_annotator.main([*CONFIG, "--labelled", str(tmp_path / "none.jsonl")])
    check_annotator.main([*CONFIG, "--labelled", file, "--dry_run"])
    assert "agreement" not in capsys.readouterr().out


RWANDA = Question("rwanda", "Rwanda", ({"role": "user", "content": "When?"},), "In 1962.")


class Failing:
    """Labels the answers that every annotator is tried on, and not those of the set."""

    def check(self, question: Question) -> None: ...

    def start(self) -> None: ...

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        if any(rollout.text == "Fail." for _, rollout in items):
            return [Annotation("other", 0, ()) for _ in items]
        return [Annotation(rollout.question_id, rollout.sample, ()) for _, rollout in items]


@pytest.mark.parametrize(("text", "fault"), [("Fail.", "expected its annotation, got that of"), ("Fine.", None)])
def test_a_fault_on_the_set_is_a_finding(text: str, fault: str | None) -> None:
    answer = Labelled(RWANDA, Rollout("rwanda", 0, (), text, "stop", 0), ((0, 5, NO_HALLUCINATION),))
    *_, last = check_annotator.check(Failing(), [RWANDA], fakes.CONFIG, labelled=LabelledSet(OWN, [answer]))
    assert last.tried == "agreement with 1 labelled answers (own)"
    assert fault is None or fault in str(last.fault)
    assert ("no_hallucination" in last.details) is (fault is None)


def test_figures_of_several_topics_have_intervals() -> None:
    from maskdpo_ray.evaluation.agreement import compare

    answers, annotations = [], []
    for number in range(6):
        question = Question(f"q{number}", f"t{number}", ({"role": "user", "content": "?"},))
        answers.append(Labelled(question, Rollout(question.id, 0, (), "So.", "stop", 0), ((0, 3, CONTRADICTORY),)))
        label = CONTRADICTORY if number else UNVERIFIABLE
        annotations.append(Annotation(question.id, 0, (Sentence(0, 3, label),)))
    text = render(compare(OWN, answers, annotations))
    assert "accuracy 0.833 [0.50, 1.00]" in text and "about 6 topics" in text
    assert [line.split() for line in text.splitlines() if line.startswith("hallucinated")] == [
        ["hallucinated", "6", "6", *["1.000", "[1.00,", "1.00]"] * 3, "-"]
    ]
