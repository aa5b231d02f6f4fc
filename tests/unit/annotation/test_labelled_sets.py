"""Labelled sets: files of RAGTruth's, PsiloQA's, ANAH's and our own layout, with words of our own in their fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.annotation import labelled_sets
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE, Question

TEXT = "Rwanda lies in Africa. Its capital is Kampala. It has 14 million people. Ask me!"
LION = Question("lion", "Lions", ({"role": "user", "content": "Where do lions live?"},), "In Africa.")


def written(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def load(file: Path, highest: float = 0.0, **options: Any) -> labelled_sets.LabelledSet:
    return labelled_sets.load(file, [LION], Dropped(file, highest), **options)


def shown(found: labelled_sets.Labelled) -> list[tuple[str, str]]:
    return [(found.answer.text[start:end], label) for start, end, label in found.sentences]


def span(words: str, kind: str) -> dict[str, Any]:
    """A label as RAGTruth has them."""
    start = TEXT.index(words)
    more = {"text": words, "meta": "", "due_to_null": False, "implicit_true": False}
    return {"start": start, "end": start + len(words), "label_type": kind, **more}


RESPONSE = {
    "id": "7",
    "source_id": "12",
    "model": "a-model",
    "temperature": 0.7,
    "labels": [span("Kampala", "Evident Conflict"), span("14 million", "Subtle Baseless Info")],
    "split": "test",
    "quality": "good",
    "response": TEXT,
}
SOURCES = (
    {
        "source_id": "12",
        "task_type": "QA",
        "source": "MARCO",
        "source_info": {"question": "What of Rwanda?", "passages": "passage 1:Rwanda lies in Africa.\n\n"},
        "prompt": "Briefly answer the following question:\nWhat of Rwanda?\n...",
    },
    {
        "source_id": "13",
        "task_type": "Summary",
        "source": "CNN/DM",
        "source_info": "Kigali is its capital.",
        "prompt": "Summarize the following news within 9 words:\nKigali is its capital.\noutput:",
    },
    {
        "source_id": "14",
        "task_type": "Data2txt",
        "source": "Yelp",
        "source_info": {"name": "Subway", "hours": {"Monday": "9:0-22:30"}, "WiFi": None},
        "prompt": "Instruction:\nDescribe:\n{'name': 'Subway', 'hours': {'Monday': '9:0-22:30'}, 'WiFi': None}",
    },
)


def ragtruth(folder: Path, *rows: Any) -> Path:
    written(folder / "source_info.jsonl", *SOURCES)
    return written(folder / "response.jsonl", *rows)


def test_ragtruth(tmp_path: Path) -> None:
    """A sentence is as bad as the spans in it; the question and document come from source_info.jsonl."""
    others = [dict(RESPONSE, source_id=name, labels=[], split="train") for name in ("13", "14")]
    file = ragtruth(tmp_path, RESPONSE, *others)
    found = load(file)
    assert found.layout.name == "ragtruth"
    assert shown(found.answers[0]) == [
        ("Rwanda lies in Africa.", NO_HALLUCINATION),
        ("Its capital is Kampala.", CONTRADICTORY),
        ("It has 14 million people.", UNVERIFIABLE),
        ("Ask me!", NO_HALLUCINATION),
    ]
    asked = [(each.question.prompt[0]["content"], each.question.document) for each in found.answers]
    assert asked == [
        ("What of Rwanda?", "passage 1:Rwanda lies in Africa.\n\n"),
        ("Summarize the following news within 9 words:", "Kigali is its capital."),
        ("Instruction:\nDescribe:", "{'name': 'Subway', 'hours': {'Monday': '9:0-22:30'}, 'WiFi': None}"),
    ]
    assert {each.question.topic for each in found.answers} == {f"ragtruth/{number}" for number in (12, 13, 14)}
    assert [len(load(file, split=split).answers) for split in ("test", "train")] == [1, 2]
    with pytest.raises(DataError, match="expected labelled answers whose split is 'dev', found none"):
        load(file, split="dev")


def test_psiloqa(tmp_path: Path) -> None:
    row = {
        "id": "psiloqa_1",
        "lang": "en",
        "wiki_title": "Rwanda",
        "wiki_url": "https://en.wikipedia.org/wiki/Rwanda",
        "llm_checkpoint": "a-model",
        "wiki_passage": "Rwanda lies in Africa.",
        "question": "What of Rwanda?",
        "golden_answer": "It lies in Africa.",
        "llm_answer": TEXT,
        "annotated_span": TEXT.replace("Kampala", "[HAL]Kampala[/HAL]"),
        "complexity": "easy",
        "labels": [[TEXT.index("Kampala"), TEXT.index("Kampala") + 7]],
    }
    chinese = dict(row, lang="zh", llm_answer="卢旺达在亚洲。首都是基加利。", labels=[[0, 6]])
    first, second = load(written(tmp_path / "test.jsonl", row, chinese)).answers
    assert [label for _, label in shown(first)] == [NO_HALLUCINATION, UNVERIFIABLE, NO_HALLUCINATION, NO_HALLUCINATION]
    assert (first.question.topic, first.question.language, second.question.language) == ("Rwanda", "en", "zh")
    assert shown(second) == [("卢旺达在亚洲。", UNVERIFIABLE), ("首都是基加利。", NO_HALLUCINATION)]


ANNOTATIONS = [
    "<Reference> Rwanda lies in Africa.\n<Hallucination> None",
    "<Reference> Kigali.\n<Hallucination> Contradictory\n<Correction> Kampala -> Kigali",
    "<Reference> None\n<Hallucination> Unverifiable",
    "<No Fact>",
]


def anah(**changes: Any) -> dict[str, Any]:
    row = {
        "name": "Rwanda",
        "documents": ["Rwanda lies in Africa.", "Kigali is its capital."],
        "selected_questions": ["What of Rwanda?", "卢旺达在哪里？"],
        "GPT3.5_answers_D": [TEXT, "在非洲。"],
        "InternLM_answers": ["In Africa.", "我不知道。"],
        "human_GPT3.5_answers_D_ann": [ANNOTATIONS, ["<参考>在非洲。\n<幻觉>无"]],
        "human_InternLM_answers_ann": [["<Hallucination>None"], ["<无事实>"]],
    }
    return row | changes


def test_anah(tmp_path: Path) -> None:
    """Rows as the card of opencompass/anah names the columns, and eval/anah_v1/utils.py reads the annotations."""
    found = load(written(tmp_path / "anah.jsonl", anah())).answers
    assert [[label for _, label in shown(each)] for each in found] == [
        [NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE, NO_FACT],
        [NO_HALLUCINATION],
        [NO_HALLUCINATION],
        [NO_FACT],
    ]
    assert {each.question.language for each in found} == {"en", "zh"}
    assert found[0].question.document == "Rwanda lies in Africa.\n\nKigali is its capital."


def test_an_answer_of_anah_that_is_split_otherwise_takes_no_other_along(tmp_path: Path) -> None:
    file = written(tmp_path / "anah.jsonl", *[anah() for _ in range(30)], anah(InternLM_answers=["One. Two.", "不。"]))
    dropped = Dropped(file, 0.05)
    assert len(labelled_sets.load(file, [], dropped).answers) == 31 * 4 - 1
    assert (dropped.counts, dropped.records) == ({"invalid_sentences": 1}, 31 * 4)


def test_our_own(tmp_path: Path) -> None:
    """With the questions of the config, or a prompt and a document in the line."""
    rows = (
        {
            "question_id": "lion",
            "text": "In Africa. Or so.",
            "sentences": [
                {"start": 11, "end": 17, "label": NO_FACT},
                {"start": 0, "end": 10, "label": NO_HALLUCINATION, "confidence": 1, "evidence": "the document"},
            ],
            "sample": 3,
            "policy_version": 1,
        },
        {
            "prompt": "Where?",
            "document": "There.",
            "text": "Here.",
            "sentences": [{"start": 0, "end": 5, "label": CONTRADICTORY}],
        },
    )
    first, second = load(written(tmp_path / "own.jsonl", *rows)).answers
    assert first.question == LION and shown(first) == [("In Africa.", NO_HALLUCINATION), ("Or so.", NO_FACT)]
    assert second.question.document == "There." and shown(second) == [("Here.", CONTRADICTORY)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "?", "label": 1}, "expected the fields of a labelled set (ragtruth's source_id, response, "),
        (dict(RESPONSE, source_id="99"), "source_id: expected one of source_info; got '99'"),
        (dict(RESPONSE, labels=[span("Kampala", "Odd")]), "labels: expected one of evident conflict, "),
        (dict(RESPONSE, labels=[dict(span("Kampala", "Evident Conflict"), end=999)]), "a span within the answer's 80"),
        (dict(RESPONSE, response=" "), "response: expected a text that is not empty; got ' '"),
        (anah(human_InternLM_answers_ann=[["<No Fact>"]]), "_ann: expected as many as questions, 2; got 1"),
        (anah(human_InternLM_answers_ann=[["x"], ["<No Fact>"]]), "expected a hallucination type; got 'x'"),
        (anah(InternLM_answers=["One. Two.", "不。"]), "_ann: expected one for each of 2 sentences; got 1"),
        ({"question_id": "x", "text": "A.", "sentences": []}, "question_id: expected a question of data.train"),
        ({"question_id": "lion", "text": "A.", "sentences": [{"label": "good"}]}, "sentences: expected labels no_f"),
    ],
)  # fmt: skip
def test_bad_lines_name_line_and_field(tmp_path: Path, row: Any, expected: str) -> None:
    file = ragtruth(tmp_path, row)
    with pytest.raises(DataError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:1: ") and expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_of_bad_lines_is_dropped(tmp_path: Path) -> None:
    file = ragtruth(tmp_path, *[RESPONSE] * 30, dict(RESPONSE, source_id="99"))
    dropped = Dropped(file, 0.05)
    assert len(labelled_sets.load(file, [], dropped).answers) == 30
    assert dropped.counts == {"unknown_question": 1}
