"""`maskdpo_ray.annotate` over fake annotators: what it labels, what it leaves out, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fakes
import pytest
from fakes import RIGHT, WRONG, Events, FakeAnnotators, Stopped

from maskdpo_ray import annotate
from maskdpo_ray.annotation.replay import LabelledAnswer, ReplayAnnotator
from maskdpo_ray.errors import ClusterError, DataError, UserError
from maskdpo_ray.records import (
    Answered,
    Failed,
    Labelled,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    encode_line,
    from_json,
)

FACTS = {"table": "countries", "entity": "Rwanda"}
TEXTS = {"q0": (RIGHT, WRONG, RIGHT), "q1": (f"{RIGHT} {WRONG}", WRONG), "q2": (WRONG,)}
"""Six answers, five of which differ."""


def rollouts(*names: str) -> list[Rollout]:
    return [Rollout(name, i, (), text, "stop", 0) for name in names for i, text in enumerate(TEXTS[name])]


def write(path: Path, values: Sequence[Any]) -> None:
    path.write_bytes(b"".join(map(encode_line, values)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Questions, a config, and answers to three questions."""
    write(tmp_path / "questions.jsonl", [{"id": n, "prompt": f"What is {n}?", "facts": FACTS} for n in TEXTS])
    write(tmp_path / "rollouts.jsonl", rollouts(*TEXTS))
    config = {
        "model": {"model_name_or_path": "unused"},
        "data": {"train": str(tmp_path / "questions.jsonl")},
        "annotation": {"options": {}},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    return tmp_path


def prepare(folder: Path, *more: str, source: str = "rollouts.jsonl") -> annotate.Job:
    files = [str(folder / source), "-o", str(folder / "labels.jsonl"), "--config", str(folder / "config.yaml")]
    return annotate.prepare([*files, *more])


def label(folder: Path, *more: str, source: str = "rollouts.jsonl", stop_at: int | None = None) -> list[str]:
    """Ids of the questions whose answers were given to the annotators."""
    events = Events(stop_at)
    job = prepare(folder, *more, source=source)
    with job.labels:
        job.run(FakeAnnotators(events))
    return [event[1] for event in events]


def lines(folder: Path) -> list[LabelledAnswer]:
    return [from_json(LabelledAnswer, json.loads(line)) for line in (folder / "labels.jsonl").read_text().splitlines()]


def test_its_output_is_replayed(folder: Path) -> None:
    assert label(folder) == ["q0", "q1", "q2"]
    assert [(line.question_id, line.sample) for line in lines(folder)] == [
        ("q0", 0),
        ("q0", 1),
        ("q1", 0),
        ("q1", 1),
        ("q2", 0),
    ]
    replayed = ReplayAnnotator(str(folder / "labels.jsonl"))
    for rollout in rollouts(*TEXTS):
        assert replayed.annotate([(fakes.question(rollout.question_id), rollout)]) == [fakes.label(rollout)]


def test_nothing_is_written_before_it_starts(folder: Path) -> None:
    before = set(folder.iterdir())
    job = prepare(folder, "--dry_run")
    assert job.dry_run and (job.num_answers, job.num_groups) == (5, 3)
    assert "annotate 5 answers" in job.describe() and "annotation actors: 1" in job.describe()
    assert set(folder.iterdir()) == before


def test_one_process_at_a_time(folder: Path) -> None:
    """Lines that another one has written since the file was read is not cut off."""
    first, second, third = prepare(folder), prepare(folder), prepare(folder)
    with first.labels:
        with pytest.raises(UserError, match="labels.jsonl: another process writes this file"), second.labels:
            pass
        first.run(FakeAnnotators(Events()))
    with pytest.raises(UserError, match=r"labels.jsonl: expected the 0 bytes that were read, got \d+$"), third.labels:
        pass
    assert len(lines(folder)) == 5


@pytest.mark.parametrize("torn", [b"", b'{"question_id": "q1", "te'])
def test_goes_on_after_a_stop(folder: Path, torn: bytes) -> None:
    with pytest.raises(Stopped):
        label(folder, stop_at=1)
    with (folder / "labels.jsonl").open("ab") as file:
        file.write(torn)
    job = prepare(folder)
    assert job.num_answers == 3 and "resumed: " in job.describe() and "labels of 2 answers" in job.describe()
    assert label(folder) == ["q1", "q2"]
    resumed = lines(folder)
    label(folder, "--force")
    assert lines(folder) == resumed


def test_only_new_answers_are_labelled(folder: Path) -> None:
    write(folder / "rollouts.jsonl", rollouts("q0"))
    label(folder)
    # A new answer among old ones, of another sample; a new question; an old text that is new to its question.
    write(folder / "rollouts.jsonl", [Rollout("q0", 7, (), f"{WRONG} {WRONG}", "stop", 1), *rollouts("q0", "q2")])
    assert label(folder) == ["q0", "q2"]
    assert [(line.question_id, line.text, line.policy_version) for line in lines(folder)[2:]] == [
        ("q0", f"{WRONG} {WRONG}", 1),
        ("q2", WRONG, 0),
    ]
    job = prepare(folder)
    assert job.num_answers == 0 and job.summary().endswith("is finished: nothing is left to do")


def test_an_attempt_that_labelled_nothing_binds_nobody(folder: Path) -> None:
    with pytest.raises(Stopped):
        label(folder, stop_at=0)
    assert label(folder, "--annotation.annotator", "claims") == ["q0", "q1", "q2"]


def test_the_summary_counts_labels(folder: Path) -> None:
    job = prepare(folder)
    with job.labels:
        job.run(FakeAnnotators(Events()))
    assert job.summary() == f"5 answers -> {folder}/labels.jsonl: 4 contradictory, 2 no_hallucination"


OWN = {"prompt": "What is q0?", "chosen": RIGHT, "rejected": WRONG}
SOURCES: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "short": ([{"question_id": "q1", "text": RIGHT}], [("q1", RIGHT)]),
    "ours": (
        [
            PreferencePair(
                "q0", "t", (1,), *(ScoredAnswer(r, fakes.label(r), None) for r in rollouts("q0")[:2]), policy_version=0
            )
        ],
        [("q0", RIGHT), ("q0", WRONG)],
    ),
    "preference": ([OWN | {"question_id": "q0"}], [("q0", RIGHT), ("q0", WRONG)]),
}


@pytest.mark.parametrize(("items", "expected"), SOURCES.values(), ids=SOURCES.keys())
def test_what_it_reads(folder: Path, items: list[Any], expected: list[tuple[str, str]]) -> None:
    write(folder / "answers.jsonl", items)
    label(folder, source="answers.jsonl")
    assert [(line.question_id, line.text) for line in lines(folder)] == expected


def test_a_preference_may_bring_its_question(folder: Path) -> None:
    """It is asked of the annotator as it is, under the name that `train` looks its labels up by."""
    write(folder / "answers.jsonl", [OWN])
    job = prepare(folder, "--annotation.annotator", "python:fakes:Accepting", source="answers.jsonl")
    (item,) = job.todo()
    name = f"{folder}/answers.jsonl:1"
    assert item.question == Question(name, name, ({"role": "user", "content": "What is q0?"},))
    assert [rollout.question_id for rollout in item.rollouts] == [name] * 2


def test_a_preference_may_bring_its_document(folder: Path) -> None:
    write(folder / "answers.jsonl", [{**OWN, "document": "It is q0."}])
    job = prepare(folder, "--annotation.annotator", "python:fakes:Accepting", source="answers.jsonl")
    assert next(job.todo()).question.document == "It is q0."


def replaced(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def damaged(folder: Path) -> None:
    label(folder)
    replaced("labels.jsonl", '{"question_id": "q0"}\n')(folder)


TABLES = "{tables: {a: FOLDER/planets.json}}"


def changed_table(folder: Path) -> None:
    table = folder / "planets.json"
    table.write_text(Path(__file__).parents[2].joinpath("docs/planets.json").read_text())
    label(folder, "--annotation.options", TABLES.replace("FOLDER", str(folder)))
    table.write_text(table.read_text() + " ")


REFUSED: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "unknown question": (
        replaced("rollouts.jsonl", '{"question_id": "q9", "text": "a"}'),
        [],
        "rollouts.jsonl:1: question_id: expected that of a question (--questions), got 'q9'",
    ),
    "misspelt": (
        replaced("rollouts.jsonl", '{"question_id": "q0", "txt": "a"}'),
        [],
        "rollouts.jsonl:1: unknown field 'txt' in the answer; known: question_id, text, ",
    ),
    "labels": (
        replaced("rollouts.jsonl", '{"question_id": "q0", "sample": 0, "sentences": []}'),
        [],
        "rollouts.jsonl:1: unknown field 'sentences' in the answer; known: question_id, text, ",
    ),
    "other prompt": (
        replaced("rollouts.jsonl", json.dumps({**OWN, "question_id": "q1"})),
        [],
        "rollouts.jsonl:1: prompt: expected that of question 'q1', got another",
    ),
    "other document": (
        replaced("rollouts.jsonl", json.dumps({**OWN, "question_id": "q0", "document": "It is."})),
        [],
        "rollouts.jsonl:1: document: expected that of question 'q0', got another",
    ),
    "document": (
        replaced("rollouts.jsonl", json.dumps({**OWN, "document": 3})),
        [],
        "1: document: expected text, got 3",
    ),
    "nothing to check by": (replaced("rollouts.jsonl", json.dumps(OWN)), [], "rollouts.jsonl:1': "),
    "other questions": (lambda _: None, ["--questions", "builtin:elements"], "rollouts.jsonl:1: question_id: expected"),
    "field": (
        replaced("rollouts.jsonl", '{"question_id": "q0", "text": 7}'),
        [],
        "jsonl:1: field 'text': expected str",
    ),
    "empty": (replaced("rollouts.jsonl", ""), [], "rollouts.jsonl: expected JSON objects, got none"),
    "somebody's file": (
        replaced("labels.jsonl", '{"a": 1}\n{"b'),
        [],
        "labels.jsonl: expected no such file yet, or one that annotate began, got one without labels.jsonl.annotator",
    ),
    "other annotator": (label, ["--annotation.annotator", "claims"], "--annotation.annotator: expected 'facts', as "),
    "other options": (label, ["--annotation.options", "{tables: {a: docs/planets.json}}"], "expected {}, as "),
    "other content": (
        changed_table,
        ["--annotation.options", TABLES],
        "annotation.options.tables.a: expected the file as ",
    ),
    "damaged": (damaged, [], "labels.jsonl:1: missing field 'text' in the labelled answer"),
    "no Unicode": (
        lambda folder: label(folder) and replaced("labels.jsonl", '{"question_id": "q0", "text": "\\ud800"}\n')(folder),
        [],
        "labels.jsonl:1: expected Unicode text, got a lone ",
    ),
    "no JSON": (
        lambda folder: label(folder) and replaced("labels.jsonl", "{\n")(folder),
        [],
        "labels.jsonl:1: expected JSON, got: ",
    ),
    "annotator": (lambda _: None, ["--annotation.annotator", "nobody"], "--annotation.annotator: expected one of"),
}


@pytest.mark.parametrize(("change", "more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_refuses(folder: Path, change: Callable[[Path], Any], more: list[str], message: str) -> None:
    change(folder)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError) as caught:
        prepare(folder, *(word.replace("FOLDER", str(folder)) for word in more))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_labels_of_another_answer_are_not_taken(folder: Path) -> None:
    """Answers that are equal when question and text are put behind each other is not the same answer."""
    write(folder / "rollouts.jsonl", [Rollout("q0", 0, (), "1a", "stop", 0)])
    write(folder / "questions.jsonl", [{"id": n, "prompt": n, "facts": FACTS} for n in ("q0", "q01")])
    label(folder)
    write(folder / "rollouts.jsonl", [Rollout("q01", 0, (), "a", "stop", 0)])
    assert label(folder) == ["q01"]


@pytest.mark.parametrize("name", ["rollouts.jsonl", "questions.jsonl", "config.yaml"])
def test_an_input_as_output(folder: Path, name: str) -> None:
    kept = (folder / name).read_bytes()
    (folder / "labels.jsonl").symlink_to(name)
    with pytest.raises(DataError, match=f"labels.jsonl: expected a file to write, got .*/{name}, which is read"):
        prepare(folder, "--force")
    assert (folder / name).read_bytes() == kept


def test_a_folder_as_output(folder: Path) -> None:
    (folder / "labels.jsonl").mkdir()
    with pytest.raises(DataError, match="labels.jsonl: expected a file to write, got a folder"):
        prepare(folder)


def test_a_failed_question_is_an_exit_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(folder)
    job.num_answers, job.failed = 0, {"q1": "no reply"}
    monkeypatch.setattr(annotate, "prepare", lambda argv: job)
    with pytest.raises(SystemExit, match="^1$"):
        annotate.main([])


def test_what_failed_is_said_and_tried_again(folder: Path) -> None:
    """A question that no actor labels has no labels; the others have."""

    class Failing(FakeAnnotators):
        def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
            given = (Failed(each.question, "no reply") if each.question.id == "q1" else each for each in answered)
            return super().stream(given)

    job = prepare(folder)
    with job.labels:
        job.run(Failing(Events()))
    assert {line.question_id for line in lines(folder)} == {"q0", "q2"}
    assert job.summary().endswith("; failed, and tried again with the next call: 1 questions, such as 'q1': no reply")
    assert label(folder) == ["q1"]
    with pytest.raises(
        ClusterError, match=r"^expected at most 0% of the last questions to fail \(run.max_failed\), got 1"
    ):
        again = prepare(folder, "--force", "--run.max_failed", "0")
        with again.labels:
            again.run(Failing(Events()))
