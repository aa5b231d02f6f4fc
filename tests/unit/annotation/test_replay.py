"""The `replay` annotator: answers found by their text, and one line for whatever doesn't fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import fakes
import pytest

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import AnnotatorError, ConfigError, DataError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, Annotation, Question, Rollout, Sentence, to_json

ONE = (Sentence(0, 6, NO_FACT, 0.5, "because"),)


def line(**changed: Any) -> dict[str, Any]:
    spans = [{"start": 0, "end": 6, "label": NO_FACT, "confidence": 0.5, "evidence": "because"}]
    return {"question_id": "q", "text": "It is.", "sentences": spans, **changed}


LINES = (
    line(sample=3, policy_version=2),
    line(question_id="r", text="Zoë’s 国", sentences=[{"start": 0, "end": 5, "label": CONTRADICTORY}]),
    line(text="It is no", sentences=[]),
    line(sample=4),
)


def written(path: Path, *lines: Any) -> Path:
    file = path / "labels.jsonl"
    file.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in lines), encoding="utf-8")
    return file


def question(name: str) -> Question:
    return Question(name, "t", ())


def answer(name: str, text: str, sample: int = 0) -> tuple[Question, Rollout]:
    return question(name), Rollout(name, sample, (), text, "stop", 7)


def test_answers_are_found_by_question_and_text(tmp_path: Path) -> None:
    file = written(tmp_path, *LINES)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\n"))
    annotator = pickle.loads(pickle.dumps(build("replay", {"file": str(file)})))
    annotator.start()
    asked = [answer("r", "Zoë’s 国", 1), answer("q", "It is."), answer("q", "It is no", 5), answer("q", "It is.", 9)]
    assert annotator.annotate(asked) == [
        Annotation("r", 1, (Sentence(0, 5, CONTRADICTORY),)),
        Annotation("q", 0, ONE),
        Annotation("q", 5, ()),
        Annotation("q", 9, ONE),
    ]
    assert annotator.annotate([]) == []


def test_a_run_folders_lines_need_only_the_text(tmp_path: Path) -> None:
    annotation = Annotation("q", 3, ONE)
    annotator = build("replay", {"file": str(written(tmp_path, {**to_json(annotation), "text": "It is."}))})
    annotator.start()
    assert annotator.annotate([answer("q", "It is.", 3)]) == [annotation]


def test_an_answer_that_the_file_lacks(tmp_path: Path) -> None:
    file = written(tmp_path, *LINES)
    annotator = build("replay", {"file": str(file)})
    annotator.start()
    annotator.annotate([answer("q", "It is."), answer("q", "It is.", 1)])
    with pytest.raises(AnnotatorError) as caught:
        annotator.annotate([answer("q", "It is. ", 2)])
    assert str(caught.value) == (
        f"{file}: question 'q', answer 2: expected a line with its text, found none among the question's 2; "
        "1 of 3 annotated answers matched so far"
    )
    with pytest.raises(AnnotatorError, match="question 's', answer 0: .* among the question's 0; "):
        annotator.annotate([answer("s", "It is.")])


def test_a_question_that_the_file_lacks_is_refused_before_the_run(tmp_path: Path) -> None:
    file = written(tmp_path, *LINES)
    annotator = build("replay", {"file": str(file)})
    annotator.check(question("q"))
    with pytest.raises(DataError, match=f"^question 's': expected annotated answers in {file}, found none$"):
        annotator.check(question("s"))


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (b"{", "2: expected JSON, got: Expecting property name"),
        (b"[]\n", "2: expected an object with the fields of the labelled answer, got list []"),
        (b'{"question_id": "\xff"}\n', "2: expected UTF-8, got byte 0xff"),
        (
            b'{"question_id": "p", ' + json.dumps(line()).encode()[1:],
            "2: expected JSON, got: field 'question_id' twice",
        ),
        (
            json.dumps({**line(), "score": 1}).encode(),
            "2: unknown field 'score' in the labelled answer; known: question_id, text, ",
        ),
        (b'{"question_id": "q", "sentences": []}', "2: missing field 'text' in the labelled answer"),
        (json.dumps(line(sample="1")).encode(), "2: field 'sample': expected int, got str '1'"),
        (
            json.dumps(line(text="It", sample=3)).encode(),
            "2: annotator: question 'q', answer 3, sentence 0: expected a span within 0 to 2, got 0 to 6",
        ),
        (
            json.dumps(line(text="It was", sentences=[{"start": 0, "end": 2, "label": "ok"}])).encode(),
            "2: annotator: question 'q', answer 0, sentence 0: label: expected one of no_fact, ",
        ),
        (
            json.dumps(line(sentences=[{"start": 0, "end": 6, "label": NO_FACT, "evidence": "\ud800"}])).encode(),
            "2: expected Unicode text, got a lone '\\ud800'",
        ),
        (json.dumps(line(text="\ud800", sentences=[])).encode(), "2: expected Unicode text, got a lone '\\ud800'"),
        (json.dumps(line(sentences=[])).encode(), "2: expected the labels that an earlier line gives this text, got o"),
        (b"[" * 100_000, "2: "),
    ],
)
def test_a_line_that_does_not_fit(tmp_path: Path, bad: bytes, expected: str) -> None:
    file = written(tmp_path, line())
    file.write_bytes(file.read_bytes() + bad)
    with pytest.raises(DataError) as caught:
        build("replay", {"file": str(file), "max_dropped": 0})
    assert str(caught.value).startswith(f"{file}:{expected}") and "\n" not in str(caught.value)


def test_a_line_that_does_not_fit_is_dropped_and_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, line())
    file.write_bytes(b"{oops}\n" + file.read_bytes())
    assert build("replay", {"file": str(file)}) is not None
    assert capfd.readouterr().err.startswith(f"dropped 1 malformed: {file}:1: expected JSON")
    file.write_bytes(b"{oops}\n" + file.read_bytes())
    with pytest.raises(DataError, match=r"expected at most 0.05 of the records dropped \(max_dropped; .* got 2 of 3: "):
        build("replay", {"file": str(file)})
    with pytest.raises(ConfigError, match=r"max_dropped: expected 0 to 1, got 7"):
        build("replay", {"file": str(file), "max_dropped": 7})


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels.jsonl: expected one annotation a line, got an empty file$"):
        build("replay", {"file": str(written(tmp_path))})
    for name, reason in ((str(tmp_path / "none"), "No such file"), (str(tmp_path), "Is a directory")):
        with pytest.raises(
            ConfigError, match=f"^annotation.options.file: expected a JSON Lines file, got .*: {reason}"
        ):
            build("replay", {"file": name})


def test_a_file_that_changes_under_a_run(tmp_path: Path) -> None:
    file = written(tmp_path, *LINES)
    annotator = build("replay", {"file": str(file)})
    annotator.start()
    for lines in (LINES[::-1], LINES[:1]):
        written(tmp_path, *lines)
        with pytest.raises(
            AnnotatorError, match="question 'r', answer 0: expected the file as it was at the start, it "
        ):
            annotator.annotate([answer("r", "Zoë’s 国")])
    file.unlink()
    with pytest.raises(AnnotatorError, match=f"^{file}: expected the annotations here too, got: No such file"):
        annotator.annotate([answer("q", "It is.")])


def test_it_keeps_the_protocol(tmp_path: Path) -> None:
    file = written(tmp_path, *(line(text=text, sentences=[]) for text in check_annotator.ANSWERS))
    annotator = build("replay", {"file": str(file)})
    assert [
        finding for finding in check_annotator.check(annotator, [question("q")], fakes.CONFIG) if finding.fault
    ] == []
