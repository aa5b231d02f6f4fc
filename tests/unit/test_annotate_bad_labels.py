"""Bad answers and labels, case by case, as test_bad_input.py has bad configs: files, and what annotators reply."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bad_input import TEXTS, Case, Change, begun_run, changed, contents, lines, refusal, refuses, words, write
from fakes import Accepting, Held

from actors.host import AnnotationActor
from maskdpo_ray import annotate
from maskdpo_ray.records import Annotation, Answered, Labelled, Question, Rollout, Sentence


def replayed(*sentences: dict[str, Any]) -> Change:
    return write("labels.jsonl", lines({"question_id": "a", "text": TEXTS[0], "sentences": sentences}))


def span(start: int, end: int, label: str = "no_fact", **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


TO = "-o out.jsonl --config config.yaml"
REPLAY = f"rollouts.jsonl {TO} --annotation.annotator replay --annotation.options {{file: labels.jsonl}}"
CASES: dict[str, Case] = {
    "no such answers": (None, f"no.jsonl {TO}", "no.jsonl: expected a JSON file, got: No such file or directory"),
    "no config": (None, "rollouts.jsonl -o out.jsonl", "--config: expected a YAML file, got nothing (see --help)"),
    "no JSON": (
        write("rollouts.jsonl", "{'text': 1}"),
        f"rollouts.jsonl {TO}",
        "rollouts.jsonl:1: expected JSON, got: Expecting property name enclosed in double quotes at column 2 of the "
        "object",
    ),
    "unknown question": (
        changed("rollouts.jsonl", "0.question_id", "z\x1b"),
        f"rollouts.jsonl {TO}",
        "rollouts.jsonl:1: question_id: expected that of a question (--questions), got 'z\\x1b'",
    ),
    "no text": (
        changed("rollouts.jsonl", "0.text", 7),
        f"rollouts.jsonl {TO}",
        "rollouts.jsonl:1: field 'text': expected str, got int 7",
    ),
    "its answers as output": (
        None,
        "rollouts.jsonl -o rollouts.jsonl --config config.yaml",
        "rollouts.jsonl: expected a file to write, got rollouts.jsonl, which is read",
    ),
    "into a run": (
        begun_run,
        "rollouts.jsonl -o run/../run/out.jsonl --config config.yaml",
        "run/../run/out.jsonl: expected a place outside of run folders, got one in that of {}/run",
    ),
    "into somebody's file": (
        write("out.jsonl", "mine"),
        f"rollouts.jsonl {TO}",
        "out.jsonl: expected no such file yet, or one that annotate began, got one without out.jsonl.annotator.json; "
        "--force replaces it",
    ),
    "more CPUs than there are": (
        None,
        f"rollouts.jsonl {TO} --cluster.cpus_per_annotator 5000",
        "not enough CPUs: expected at most ...",
    ),
    "no labels": (
        None,
        REPLAY,
        "--annotation.options.file: expected a JSON Lines file, got 'labels.jsonl': No such file or directory",
    ),
    "a span outside of the text": (
        replayed(span(0, 12)),
        REPLAY,
        "labels.jsonl:1: annotator: question 'a', answer 0, sentence 0: expected a span within 0 to 11, got 0 to 12",
    ),
    "spans that overlap": (
        replayed(span(0, 4), span(3, 11)),
        REPLAY,
        "labels.jsonl:1: annotator: question 'a', answer 0, sentence 1: expected a span within 4 to 11, got 3 to 11",
    ),
    "a span without words": (
        replayed(span(4, 5)),
        REPLAY,
        "labels.jsonl:1: annotator: question 'a', answer 0, sentence 0: expected a span that holds words, got ' '",
    ),
    "unknown label": (
        replayed(span(0, 4, "true")),
        REPLAY,
        "labels.jsonl:1: annotator: question 'a', answer 0, sentence 0: label: expected one of no_fact, "
        "no_hallucination, contradictory, unverifiable, unparsed; got 'true'",
    ),
    "NaN confidence": (
        replayed(span(0, 4, confidence=float("nan"))),
        REPLAY,
        "labels.jsonl:1: expected JSON, got: NaN, which JSON does not have",
    ),
    "confidence above 1": (
        replayed(span(0, 4, confidence=1.5)),
        REPLAY,
        "labels.jsonl:1: annotator: question 'a', answer 0, sentence 0: confidence: expected 0 to 1 or None, got 1.5",
    ),
    "confidence beyond numbers": (
        replayed(span(0, 4, confidence=10**400)),
        REPLAY,
        "labels.jsonl:1: field 'sentences[0].confidence': Number out of range",
    ),
    "labels of other questions": (
        replayed(span(0, 4)),
        REPLAY,
        "question 'b': expected annotated answers in labels.jsonl, found none",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(labelled_folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """None is tolerated here; test_dropped.py covers the other cases of bad records."""
    refuses(lambda argv: annotate.main([*argv, "--data.max_dropped", "0"]), CASES[name], labelled_folder, capfd)


def sentences(*spans: tuple[Any, ...]) -> Annotation:
    return Annotation("a", 0, tuple(Sentence(*each) for each in spans))


REPLIES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "annotator: expected a list of 2 annotations, got NoneType"),
    "too few": ([sentences()], "annotator: expected a list of 2 annotations, got 1"),
    "no annotation": ([{"sentences": []}] * 2, "annotator: question 'a', answer 0: expected an Annotation, got dict"),
    "of another answer": (
        [sentences(), sentences()],
        "annotator: question 'a', answer 1: expected its annotation, got that of question 'a', answer 0",
    ),
    "no sentence": (
        [Annotation("a", 0, ("Yes.",))] * 2,
        "annotator: question 'a', answer 0, sentence 0: expected a Sentence, got str",
    ),
    "a span outside of the text": (
        [sentences((5, 12, "no_fact"))] * 2,
        "annotator: question 'a', answer 0, sentence 0: expected a span within 0 to 11, got 5 to 12",
    ),
    "spans that overlap": (
        [sentences((0, 6, "no_fact"), (5, 11, "no_fact"))] * 2,
        "annotator: question 'a', answer 0, sentence 1: expected a span within 6 to 11, got 5 to 11",
    ),
    "unknown label": (
        [sentences((0, 4, "\x1b[2J"))] * 2,
        "annotator: question 'a', answer 0, sentence 0: label: expected one of no_fact, no_hallucination, "
        "contradictory, unverifiable, unparsed; got '\\x1b[2J'",
    ),
    "NaN confidence": (
        [sentences((0, 4, "no_fact", float("nan")))] * 2,
        "annotator: question 'a', answer 0, sentence 0: confidence: expected 0 to 1 or None, got nan",
    ),
    "evidence that no file can hold": (
        [sentences((0, 4, "no_fact", None, "\ud800"))] * 2,
        "annotator: question 'a', answer 0, sentence 0: evidence: expected Unicode text or None, got '\\ud800'",
    ),
}


class Replying(Accepting):
    """An annotator that replies as the case says."""

    def __init__(self, case: str) -> None:
        self._case = case

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        reply: list[Annotation] = REPLIES[self._case][0]
        return reply


class InProcess:
    """`Cluster` without Ray: the annotation actor is an object."""

    def __init__(self, config: object) -> None:
        self._actor = AnnotationActor()

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start_annotators(self, annotator: Any) -> InProcess:
        self._hosted: Any = Held(annotator)
        return self

    def stream(self, answered: Iterable[Answered]) -> Iterator[Labelled]:
        for item in answered:
            labels = self._actor.annotate(self._hosted, item.question, list(item.rollouts))
            yield Labelled(item.question, (), item.rollouts, tuple(labels))


@pytest.mark.parametrize("name", REPLIES)
def test_a_bad_reply_is_one_line(
    labelled_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Through the actor that hosts an annotator of the user's own; no label is written."""
    monkeypatch.setitem(sys.modules, "maskdpo_ray.cluster", SimpleNamespace(Cluster=InProcess))  # type: ignore[arg-type]
    own = f"--annotation.annotator python:test_annotate_bad_labels:Replying --annotation.options {{case: {name}}}"
    before = contents(labelled_folder)
    assert refusal(annotate.main, words(f"rollouts.jsonl {TO} {own}", labelled_folder), capfd) == REPLIES[name][1]
    new = {path.name: data for path, data in contents(labelled_folder).items() if path not in before}
    assert new.pop("out.jsonl") == b"" and list(new) == ["out.jsonl.annotator.json"]
