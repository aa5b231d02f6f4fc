"""The `short_answer` annotator: by words, by a judge, what it refuses."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from msgspec.structs import replace
from scripted_judge import CUT, MODEL, ScriptedServer

from maskdpo_ray.annotation import replies
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    Annotation,
    Question,
    Rollout,
    Sentence,
)

QUESTION = Question(
    "q",
    "Rwanda",
    ({"role": "user", "content": "What is the capital of Rwanda?"},),
    facts={"asks": ["capital"], "capital": ["Kigali", "KGL"]},
    answer="Kigali",
    wrong_answers=("Kampala", "Nairobi"),
)


def labelled(texts: list[str], question: Question = QUESTION, **options: Any) -> list[Annotation]:
    annotator = pickle.loads(pickle.dumps(build("short_answer", options)))
    annotator.check(question)
    annotator.start()
    items = [(question, Rollout("q", sample, (), text, "stop", 0)) for sample, text in enumerate(texts)]
    found = annotator.annotate(items)
    replies.refuse_annotation_faults(items, found)
    annotator.close()
    return found


def test_one_span_over_the_answer_by_its_words() -> None:
    texts = [" It is Kigali.\n", "KGL", "Kampala", "Kigali or Nairobi", "I don't know.", "", " \n"]
    found = labelled(texts)
    assert [annotation.sentences for annotation in found] == [
        (Sentence(1, 14, NO_HALLUCINATION, evidence="Kigali", kind="capital"),),
        (Sentence(0, 3, NO_HALLUCINATION, evidence="Kigali", kind="capital"),),
        (Sentence(0, 7, CONTRADICTORY, evidence="Kigali", kind="capital"),),
        (Sentence(0, 17, UNPARSED, evidence="Kigali", kind="capital"),),
        (Sentence(0, 13, NO_FACT, evidence="Kigali", kind="capital"),),
        (),
        (),
    ]
    assert [annotation.sample for annotation in found] == list(range(7))


def test_a_judge_behind_an_endpoint_decides_what_words_do_not_settle() -> None:
    verdicts = {"The city of K.": "K. is Kigali. [Correct]", "Kampala": "Another. [Incorrect]", "Hm, Kigali?": CUT}

    def script(messages: list[dict[str, str]]) -> Any:
        candidate = messages[0]["content"].rsplit("Candidate answer: ", 1)[1].removesuffix("\nEvaluation:")
        return verdicts[candidate]

    texts = ["The city of K.", "Kampala", "Kampala", "Hm, Kigali?", "kigali!", "I do not know."]
    with ScriptedServer(script=script) as server:
        judge = {"judge": "http", "judge_options": {"base_url": server.url, "model": MODEL, "max_retries": 0}}
        found = labelled(texts, replace(QUESTION, facts=None), max_reply_tokens=20, **judge)
        assert [request["max_tokens"] for request in server.requests[1:]] == [20] * 3
    spans = [annotation.sentences[0] for annotation in found]
    assert [span.label for span in spans] == [
        *(NO_HALLUCINATION, CONTRADICTORY, CONTRADICTORY, UNPARSED, NO_HALLUCINATION, NO_FACT)
    ]
    assert spans[0].evidence == "K. is Kigali. [Correct]" and spans[4].evidence == "Kigali"
    assert "cut off" in str(spans[3].evidence) and {span.kind for span in spans} == {None}


def test_a_question_without_a_standard_answer_is_refused() -> None:
    with pytest.raises(DataError, match="^question 'q': answer: expected a standard answer for the short_answer annot"):
        build("short_answer").check(replace(QUESTION, answer=None))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"judge": 3}, "annotation.options.judge: expected a name or none, got 3"),
        ({"judge": "gpt"}, "annotation.options.judge: expected one of http, vllm, python:"),
        (
            {"judge_options": {"model": "m"}},
            "annotation.options.judge_options: expected none without annotation.options.",
        ),
        ({"judge": "http", "judge_options": 3}, "annotation.options.judge_options: expected a mapping, got 3"),
        ({"max_reply_tokens": 0}, "annotation.options.max_reply_tokens: expected a whole number above 0, got 0"),
        ({"max_concurrency": True}, "annotation.options.max_concurrency: expected a whole number above 0, got True"),
        ({"template": "t"}, "annotation.options: ShortAnswerAnnotator: got an unexpected keyword argument 'template'"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        build("short_answer", options)
    assert str(error.value).startswith(expected)


def test_questions_at_once() -> None:
    judge = {"judge": "http", "judge_options": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    assert [build("short_answer", options).max_concurrency for options in ({}, judge, {"max_concurrency": 3})] == [  # type: ignore[attr-defined]
        *(1, 16, 3)
    ]
