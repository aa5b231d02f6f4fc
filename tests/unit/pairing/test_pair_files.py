"""Whole pairs and whole answers of ours: a table of what is refused, by line and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from maskdpo_ray.data import answers as data_answers
from maskdpo_ray.errors import DataError
from maskdpo_ray.pairing import pair_files
from maskdpo_ray.pairing.scoring import detail, scored
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_HALLUCINATION,
    Annotation,
    PreferencePair,
    Rollout,
    ScoredAnswer,
    Sentence,
    to_json,
)

RIGHT = Sentence(0, 8, NO_HALLUCINATION)
WRONG = Sentence(9, 17, CONTRADICTORY)


def answer(sample: int, text: str, *sentences: Sentence) -> ScoredAnswer:
    return scored(Rollout("q", sample, (5, 2), text, "stop", 0), Annotation("q", sample, sentences))


CHOSEN, REJECTED = answer(0, "It is a. It is b.", RIGHT, WRONG), answer(3, "It is c. It is d.", WRONG)
PAIR = PreferencePair("q", "t", (1,), CHOSEN, REJECTED, 0)


def test_a_whole_pair_is_read() -> None:
    assert pair_files.OwnPairs().read(to_json(PAIR), "here") == [PAIR]


def test_a_pair_twice_in_a_file() -> None:
    pairs = pair_files.OwnPairs()
    pairs.read(to_json(PAIR), "file:1")
    pairs.read(to_json(PAIR) | {"prompt_token_ids": [2]}, "file:2")
    with pytest.raises(DataError, match="^file:3: expected each pair once, got that of file:1 again$"):
        pairs.read(to_json(PAIR), "file:3")
    pair_files.OwnPairs().read(to_json(PAIR), "another:1")


def set_at(path: str, value: Any) -> Callable[[Any], Any]:
    """Put `value` at the dotted path."""

    def change(item: Any) -> None:
        *names, last = path.split(".")
        for name in names:
            item = item[int(name) if isinstance(item, list) else name]
        item[last] = value

    return change


def swap(item: Any) -> None:
    item["chosen"], item["rejected"] = item["rejected"], item["chosen"]


def same(item: Any) -> None:
    item["rejected"] = item["chosen"]


def unparsed(item: Any) -> None:
    item["chosen"]["score"] = None
    for sentence in item["chosen"]["annotation"]["sentences"]:
        sentence["label"] = "unparsed"


SENTENCE = "chosen.annotation.sentences.0"
FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no score": (
        set_at("chosen.score", None),
        "chosen: score: expected 0.5, which its labels give by pairs.score, got None",
    ),
    "other score": (
        set_at("rejected.score", 7.0),
        "rejected: score: expected 0.0, which its labels give by pairs.score, got 7.0",
    ),
    "swapped": (swap, "chosen: score: expected more than 0.5, the rejected answer's, got 0.0"),
    "same": (same, "rejected: expected another answer than the chosen one, got the same text"),
    "all unparsed": (unparsed, "chosen: expected a sentence with another label than unparsed, got none"),
    "span": (set_at(f"{SENTENCE}.end", 99), "sentence 0: expected a span within 0 to 17, got 0 to 99"),
    "label": (set_at(f"{SENTENCE}.label", "foo"), "sentence 0: label: expected one of no_fact, "),
    "confidence": (set_at(f"{SENTENCE}.confidence", 2.0), "sentence 0: confidence: expected 0 to 1 or None, got 2.0"),
    "other labels": (
        set_at("chosen.annotation.sample", 7),
        "expected its annotation, got that of question 'q', answer",
    ),
    "other question": (set_at("question_id", "p"), "chosen: question_id: expected 'p', as the pair's, got 'q'"),
    "empty": (set_at("rejected.rollout.text", ""), "rejected: expected an answer of words, got ''"),
    "no ids": (set_at("chosen.rollout.token_ids", []), "chosen: expected an answer of words, got "),
    "ids": (set_at("chosen.rollout.token_ids", [3, -1]), "chosen: token_ids: expected token ids of 0 or more, got -1"),
    "prompt": (set_at("prompt_token_ids", [-7]), "prompt_token_ids: expected token ids of 0 or more, got -7"),
    "field": (set_at("chosen.rollout.sample", "x"), "field 'chosen.rollout.sample': expected int"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_whole_pair(change: Callable[[Any], Any], message: str) -> None:
    item = json.loads(json.dumps(to_json(PAIR)))
    change(item)
    with pytest.raises(DataError) as caught:
        pair_files.OwnPairs().read(item, "pairs.jsonl:7")
    assert str(caught.value).startswith("pairs.jsonl:7: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("finish_reason", "foo", "finish_reason: expected stop or length, got 'foo'"),
        ("sample", -1, "sample: expected 0 or more, got -1"),
        ("policy_version", -1, "policy_version: expected 0 or more, got -1"),
        ("token_ids", [-5], "token_ids: expected token ids of 0 or more, got -5"),
    ],
)
def test_impossible_answers(tmp_path: Path, field: str, value: Any, message: str) -> None:
    file = tmp_path / "rollouts.jsonl"
    whole = to_json(CHOSEN.rollout)
    file.write_text("".join(json.dumps(item) + "\n" for item in (whole, whole | {field: value})))
    answers = data_answers.rollouts(file)
    assert next(answers) == (f"{file}:1", CHOSEN.rollout)
    with pytest.raises(DataError) as caught:
        next(answers)
    assert str(caught.value) == f"{file}:2: {message}"


def detailed(answer: ScoredAnswer) -> ScoredAnswer:
    return scored(answer.rollout, answer.annotation, detail)


def test_scores_are_checked_by_the_score_that_made_them() -> None:
    pair = PreferencePair("q", "t", (1,), detailed(CHOSEN), detailed(REJECTED), 0)
    assert pair_files.OwnPairs(detail).read(to_json(pair), "here") == [pair]
    assert pair_files.OwnPairs(None).read(to_json(pair), "here") == [pair]
    with pytest.raises(DataError, match="expected 0.5, which its labels give by pairs.score, got 0.083"):
        pair_files.OwnPairs().read(to_json(pair), "here")


def test_an_answer_alone() -> None:
    for pair in (structs.replace(PAIR, rejected=None), structs.replace(PAIR, chosen=None)):
        assert pair_files.OwnPairs().read(to_json(pair), "here") == [pair]
        item = to_json(pair)
        item["chosen" if pair.rejected is None else "rejected"]["score"] = 0.7
        with pytest.raises(DataError, match="which its labels give by pairs.score, got 0.7"):
            pair_files.OwnPairs().read(item, "here")
