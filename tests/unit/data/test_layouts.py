"""Data sets as their authors publish them: what of each row is question, answer, document and preference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.data import answers, questions
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.data.rows import preferences as read
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import Question

USER, PROMPT = {"role": "user", "content": "What is Rwanda?"}, ({"role": "user", "content": "What is Rwanda?"},)
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER, WORSE = "A country. It lies in Africa.", "A city."
SHAREGPT = {"conversations": [{"from": "human", "value": "What is Rwanda?"}, {"from": "gpt", "value": ANSWER}]}
ALPACA = {"instruction": "What is", "input": "Rwanda?", "output": ANSWER}
MESSAGES = {"messages": [USER, {"role": "assistant", "content": ANSWER}]}
COMPLETION = {"prompt": [USER], "completion": [{"role": "assistant", "content": ANSWER}]}
HH = {
    side: f"\n\nHuman: What is Rwanda?\n\nAssistant: {text}" for side, text in (("chosen", ANSWER), ("rejected", WORSE))
}
ULTRA = {
    "source": "evol_instruct",
    "instruction": "What is Rwanda?",
    "models": ["a", "b", "c"],
    "completions": [
        {"model": "a", "response": WORSE, "overall_score": 10.0, "fine-grained_score": 1.5},  # a known bug of the set
        {"model": "b", "response": ANSWER, "overall_score": 8.0, "fine-grained_score": 4.75},
        {"model": "c", "response": "So so.", "overall_score": 6.0, "fine-grained_score": 3.0},
    ],
    "correct_answers": ["None"],
}
BINARIZED = {
    "prompt": "What is Rwanda?",
    "prompt_id": "3f2b",
    "chosen": [USER, {"role": "assistant", "content": ANSWER}],
    "rejected": [USER, {"role": "assistant", "content": WORSE}],
    "messages": [USER, {"role": "assistant", "content": ANSWER}],
    "score_chosen": 8.5,
}
ANAH = {
    "name": "Rwanda",
    "documents": ["Rwanda is a state in Africa.", "Its capital is Kigali."],
    "selected_questions": ["What is Rwanda?", "What is its capital?"],
    "GPT3.5_answers_D": [ANSWER, "Kigali."],
    "InternLM_answers": [WORSE, "Nairobi."],
    "human_GPT3.5_answers_D_ann": [["<Reference>...", "<Hallucination>None"], ["..."]],
    "language": "en",
}
FACTSCORE = {
    "input": "Question: Tell me a bio of Kwibuka.",
    "output": ANSWER,
    "topic": "Kwibuka",
    "cat": ["rare", "Africa"],
    "annotations": [
        {"text": "A country.", "is-relevant": True, "human-atomic-facts": [{"text": "It is", "label": "S"}]}
    ],
}
FACTALIGN = {
    "prompt": "What is Rwanda?",
    "completion": ANSWER,
    "label": True,
    "completion_sentences": ["A country.", "It lies in Africa."],
    "sentence_label": [True, False],
}


def file_of(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "given.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


ASKED = {
    "ShareGPT": (SHAREGPT, PROMPT, ANSWER),
    "ShareGPT that waits for an answer": ({"conversations": SHAREGPT["conversations"][:1]}, PROMPT, None),
    "Alpaca": (ALPACA, ({"role": "user", "content": "What is\nRwanda?"},), ANSWER),
    "Alpaca without input": (
        ALPACA | {"input": "", "system": "Be brief."},
        (SYSTEM, {"role": "user", "content": "What is"}),
        ANSWER,
    ),
    "conversations of TRL": (MESSAGES, PROMPT, ANSWER),
    "a system message": ({"messages": [SYSTEM, *MESSAGES["messages"]]}, (SYSTEM, *PROMPT), ANSWER),
    "prompt and completion of TRL": (COMPLETION, PROMPT, ANSWER),
    "UltraFeedback": (ULTRA, PROMPT, None),
    "UltraFeedback, binarized": (BINARIZED, PROMPT, None),
    "FActScore": (FACTSCORE, ({"role": "user", "content": "Tell me a bio of Kwibuka."},), None),
    "FactAlign": (FACTALIGN, PROMPT, None),
}


@pytest.mark.parametrize(("row", "prompt", "answer"), ASKED.values(), ids=ASKED)
def test_rows_as_questions(
    tmp_path: Path, row: dict[str, Any], prompt: tuple[dict[str, str], ...], answer: str | None
) -> None:
    (found,) = questions.load(str(file_of(tmp_path, row)))
    assert (found.prompt, found.answer, found.id) == (prompt, answer, f"{tmp_path}/given.jsonl:1")
    assert found.topic == row.get("topic", found.id)


def test_a_topic_of_anah_is_a_question_for_each_with_all_documents(tmp_path: Path) -> None:
    first, second = questions.load(str(file_of(tmp_path, ANAH)))
    document = "Rwanda is a state in Africa.\n\nIts capital is Kigali."
    assert first == Question("Rwanda-0", "Rwanda", PROMPT, document)
    assert second == Question("Rwanda-1", "Rwanda", ({"role": "user", "content": "What is its capital?"},), document)


ANSWERED = {
    "ShareGPT": (SHAREGPT, [[ANSWER]]),
    "Alpaca": (ALPACA, [[ANSWER]]),
    "UltraFeedback": (ULTRA, [[WORSE, ANSWER, "So so."]]),
    "ANAH": (ANAH, [[ANSWER, WORSE], ["Kigali.", "Nairobi."]]),
    "FActScore": (FACTSCORE, [[ANSWER]]),
    "FactAlign": (FACTALIGN, [[ANSWER]]),
    "HH-RLHF": (HH, [[ANSWER, WORSE]]),
}


@pytest.mark.parametrize(("row", "expected"), ANSWERED.values(), ids=ANSWERED)
def test_answers_to_be_labelled(tmp_path: Path, row: dict[str, Any], expected: list[list[str]]) -> None:
    given = list(answers.read(file_of(tmp_path, row), {}))
    assert [[rollout.text for rollout in rollouts] for _, _, rollouts in given] == expected
    assert all(rollout.question_id == question.id for _, question, rollouts in given for rollout in rollouts)


PREFERRED = {"HH-RLHF": HH, "UltraFeedback": ULTRA, "UltraFeedback, binarized": BINARIZED}


@pytest.mark.parametrize("row", PREFERRED.values(), ids=PREFERRED)
def test_rows_as_preferences(tmp_path: Path, row: dict[str, Any]) -> None:
    ((_, found),) = read(file_of(tmp_path, row))
    assert (found.prompt, found.chosen.text, found.rejected.text) == (PROMPT, ANSWER, WORSE)


def test_one_answer_that_is_good_or_bad(tmp_path: Path) -> None:
    kto = {"prompt": [USER], "completion": [{"role": "assistant", "content": WORSE}], "label": False}
    (_, labelled), (_, plain) = read(file_of(tmp_path, FACTALIGN, kto))
    assert labelled.prompt == plain.prompt == PROMPT
    assert list(labelled.sides()) == ["chosen"] and list(plain.sides()) == ["rejected"]
    assert labelled.chosen is not None and labelled.chosen.sentences is not None
    found = [(ANSWER[each.start : each.end], each.label) for each in labelled.chosen.sentences]
    assert found == [("A country.", "no_hallucination"), ("It lies in Africa.", "contradictory")]
    assert plain.rejected is not None and plain.rejected.text == WORSE and plain.rejected.sentences is None
    with pytest.raises(DataError, match=":1: sentence_label: expected one per sentence, got 1 for 2"):
        list(read(file_of(tmp_path, FACTALIGN | {"sentence_label": [True]})))


def test_a_dialogue_of_several_turns(tmp_path: Path) -> None:
    talk = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: What is Rwanda?\n\nAssistant: "
    ((_, found),) = read(file_of(tmp_path, {"chosen": f"{talk}{ANSWER}", "rejected": f"{talk}{WORSE}"}))
    assert [message["role"] for message in found.prompt] == ["user", "assistant", "user"]
    assert found.prompt[-1] == USER
    other = talk.replace("Hi.", "Hey.")
    with pytest.raises(DataError, match="expected the messages of chosen before the answer, got others"):
        list(read(file_of(tmp_path, {"chosen": f"{talk}{ANSWER}", "rejected": f"{other}{WORSE}"})))


def test_completions_rated_the_same_are_no_preference(tmp_path: Path) -> None:
    same = [each | {"fine-grained_score": 4.0} for each in ULTRA["completions"]]
    dropped = Dropped("given", 0.5)
    ((_, found),) = read(file_of(tmp_path, ULTRA, ULTRA | {"completions": same}), dropped)
    assert found.chosen.text == ANSWER
    assert dropped.counts == {"empty_answer": 1}


def test_a_row_of_no_layout_passes_as_it_is(tmp_path: Path) -> None:
    own = {"id": "a", "prompt": "What is Rwanda?", "answer": ANSWER, "source": "mine", "score": 0.5}
    assert questions.load(str(file_of(tmp_path, own))) == [Question("a", "a", PROMPT, answer=ANSWER)]
