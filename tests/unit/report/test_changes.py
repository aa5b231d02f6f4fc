"""Answers before and after: which are shown first, against a brute-force ranking."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import (
    LABELS,
    Annotation,
    CommittedQuestion,
    JudgedFact,
    Judgement,
    Question,
    Rollout,
    Sentence,
    encode_record,
)
from maskdpo_ray.report.changes import NUM_EXTREMES, Changes

CORRECT, PARSED = {"no_fact", "no_hallucination"}, set(LABELS) - {"unparsed"}


def score(labels: list[str]) -> float | None:
    parsed = [label for label in labels if label in PARSED]
    return sum(label in CORRECT for label in parsed) / len(parsed) if parsed else None


def write(file: Path, answers: dict[str, list[list[str]]], judged: bool = False) -> Path:
    """A log of answers with these labels, in an order of its own."""
    lines = []
    for name, samples in answers.items():
        rollouts = tuple(Rollout(name, i, (1,), "A b. " * len(each), "stop", 0) for i, each in enumerate(samples))
        annotations = tuple(
            Annotation(name, i, tuple(Sentence(5 * at, 5 * at + 4, label) for at, label in enumerate(each)))
            for i, each in enumerate(samples)
        )
        facts = (JudgedFact("a", "supported"), JudgedFact("b", "unsupported"))
        judgements = tuple(Judgement(name, i, facts) for i in range(len(samples))) if judged else ()
        lines.append(encode_record(CommittedQuestion(name, rollouts, annotations, judgements)))
    file.write_bytes(b"".join(lines))
    return file


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Changes, dict[tuple[str, int], float | None]]:
    generator = random.Random(5)
    names = [f"q{number}" for number in range(60)]
    sides = [
        {name: [generator.choices(LABELS, k=generator.randint(0, 5)) for _ in range(3)] for name in order}
        for order in (names, names[::-1])
    ]
    gains = {}
    for name in names:
        for sample in range(3):
            before, after = (score(side[name][sample]) for side in sides)
            gains[name, sample] = None if before is None or after is None else after - before
    logs = [write(tmp_path / f"{index}.jsonl", side) for index, side in enumerate(sides)]
    return Changes("heldout", *logs), gains


def test_the_ten_best_and_the_ten_worst_come_first(drawn: tuple[Changes, dict[tuple[str, int], float | None]]) -> None:
    changes, gains = drawn
    rows = list(changes.read())
    assert len(changes) == len(rows) == 180
    assert {(row.question_id, row.sample) for row in rows} == gains.keys()
    for row in rows:
        assert row.gain == gains[row.question_id, row.sample]
    best, worst = rows[:NUM_EXTREMES], rows[NUM_EXTREMES : 2 * NUM_EXTREMES]
    by_question = {
        name: [gain for (of, _), gain in gains.items() if of == name and gain is not None] for name, _ in gains
    }
    known = [each for each in by_question.values() if each]
    assert [row.gain for row in best] == sorted((max(each) for each in known), reverse=True)[:NUM_EXTREMES]
    assert [row.gain for row in worst] == sorted(min(each) for each in known)[:NUM_EXTREMES]
    for extremes, why in ((best, "best"), (worst, "worst")):
        assert {row.why for row in extremes} == {why}
        assert len({row.question_id for row in extremes}) == NUM_EXTREMES
    assert {row.why for row in rows[2 * NUM_EXTREMES :]} == {"drawn"}
    assert changes.num_extremes == 2 * NUM_EXTREMES


def test_draw_does_not_depend_on_the_order_of_the_lines(drawn: tuple[Changes, object], tmp_path: Path) -> None:
    changes, _ = drawn
    shuffled = tmp_path / "shuffled.jsonl"
    lines = changes.before.read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    shuffled.write_bytes(b"".join(lines))
    again = Changes("heldout", shuffled, changes.after)
    assert [(row.question_id, row.sample) for row in again.read()] == [
        (row.question_id, row.sample) for row in changes.read()
    ]


def test_only_answers_that_both_sides_have(tmp_path: Path) -> None:
    right, wrong = ["no_hallucination"], ["contradictory"]
    before = write(tmp_path / "0.jsonl", {"a": [right, right], "b": [wrong], "failed": []}, judged=True)
    after = write(tmp_path / "1.jsonl", {"c": [right], "b": [right], "a": [wrong]})
    asked = {"b": Question("b", "Peru", ({"role": "user", "content": "Of Peru?"},))}
    changes = Changes("heldout", before, after, asked)
    rows = {row.question_id: row for row in changes.read()}
    assert rows.keys() == {"a", "b"} and len(changes) == 2
    assert (rows["b"].topic, rows["b"].prompt, rows["b"].gain, rows["b"].why) == ("Peru", "Of Peru?", 1.0, "best")
    assert (rows["a"].topic, rows["a"].prompt, rows["a"].gain, rows["a"].why) == ("a", "", -1.0, "worst")
    assert rows["b"].before.verdict == "1 of 2 facts supported" and rows["b"].after.verdict == ""


def test_torn_end_is_left_out_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = write(tmp_path / "0.jsonl", {"a": [["no_fact"]]})
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:40])
    assert len(Changes("heldout", log, log)) == 1
    log.write_bytes(b'{"question_id": 5}\n' + whole)
    with pytest.raises(RunFolderError, match="0.jsonl, line 1: field 'question_id'"):
        Changes("heldout", log, log)
