"""The bridge to OpenRLHF: rewards of answers. Its trainer is compared with a rank in tests/e2e/test_openrlhf.py."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from bad_input import LABELS, TEXTS

from maskdpo_ray import openrlhf as bridge
from maskdpo_ray.errors import AnnotatorError, ConfigError, DataError
from maskdpo_ray.openrlhf import Reward
from maskdpo_ray.records import Annotation, Question, Rollout, Sentence


class Labels:
    """An annotator that knows two answers, one sentence after the other, and is called by one thread at a time."""

    def __init__(self, unparsed: bool = False) -> None:
        self.unparsed, self.started, self.busy, self.seen = unparsed, 0, 0, []

    def check(self, question: Question) -> None:
        if question.id == "c":
            raise DataError("question 'c': expected a document, got none")

    def start(self) -> None:
        self.started += 1

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        self.busy += 1
        assert self.busy == self.started == 1
        ((question, answer),) = items
        self.seen.append(answer)
        if answer.text not in TEXTS:
            raise AnnotatorError(f"expected one of two answers, got {answer.text!r}")
        spans = [Sentence(**span) for span in LABELS[TEXTS.index(answer.text)]]
        if self.unparsed:
            spans = [Sentence(span.start, span.end, "unparsed") for span in spans]
        self.busy -= 1
        return [Annotation(question.id, answer.sample, tuple(spans))]


@pytest.fixture
def reward(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Reward:
    monkeypatch.setattr(bridge.protocol, "build", lambda name, options: Labels(**options or {}))
    return Reward("config.yaml")


PROMPT = "[user] What is a?\n"


def test_rewards_are_the_scores_of_answers(reward: Reward) -> None:
    queries = [PROMPT + TEXTS[0] + "</s>", PROMPT + TEXTS[1] + "</s></s>", PROMPT + TEXTS[1]]
    found = reward(queries, [PROMPT] * 3, ["a"] * 3)
    assert found["rewards"].tolist() == found["scores"].tolist() == [1.0, 0.5, 0.5]
    assert found["extra_logs"]["unscored"] == 0
    seen = reward._annotator.seen
    assert [(answer.text, answer.finish_reason) for answer in seen] == [
        (TEXTS[0], "stop"),
        (TEXTS[1], "stop"),
        (TEXTS[1], "length"),
    ]


def test_questions_have_the_documents_and_columns_of_the_config(
    good_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as in a run: by `data.columns`, with what is found in `data.documents`."""
    monkeypatch.setattr(bridge.protocol, "build", lambda name, options: Labels())
    config = (good_folder / "config.yaml").read_text()
    (good_folder / "renamed.jsonl").write_text('{"name": "a", "prompt": "What is a?"}\n')
    (good_folder / "corpus.jsonl").write_text('{"title": "A", "text": "The letter a comes first."}\n')
    data = "{train: renamed.jsonl, eval: questions.jsonl, columns: {id: name}, documents: corpus.jsonl}"
    (good_folder / "config.yaml").write_text(
        "\n".join(f"data: {data}" if line.startswith("data:") else line for line in config.splitlines())
    )
    found = Reward("config.yaml")._questions["a"]
    assert "The letter a comes first." in str(found.document)


def test_thinking_is_not_judged(reward: Reward) -> None:
    query = f"{PROMPT}<think>\nHm. Yes.\n</think>\n{TEXTS[1]}</s>"
    assert reward([query], [PROMPT], ["a"])["rewards"].tolist() == [0.5]
    opened = f"{PROMPT}<think>\n"
    assert reward([f"{opened}Hm. Yes.\n</think>\n{TEXTS[1]}</s>"], [opened], ["a"])["rewards"].tolist() == [0.5]


def test_an_answer_without_a_score_gets_the_given_reward(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.protocol, "build", lambda name, options: Labels(unparsed=True))
    found = Reward("config.yaml", unscored=-1.0)([PROMPT + TEXTS[0]], [PROMPT], ["b"])
    assert found["rewards"].tolist() == [-1.0] and found["extra_logs"]["unscored"] == 1


def test_threads_take_turns_at_an_annotator_that_starts_once(reward: Reward) -> None:
    queries, found = [PROMPT + text + "</s>" for text in TEXTS * 10], []
    threads = [
        threading.Thread(target=lambda query=query: found.append(reward([query], [PROMPT], ["a"])["rewards"].item()))
        for query in queries
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0.5] * 10 + [1.0] * 10


BAD = {
    "label": (PROMPT + TEXTS[0], "nobody", "--data.label_key: expected the id of one of the config's questions, got"),
    "prompt": ("Another one. Yes.", "a", "query: expected it to begin with its prompt, '[user] What is a?"),
    "question": (PROMPT + TEXTS[0], "c", "question 'c': expected a document, got none"),
    "answer": (PROMPT + "What?", "a", "expected one of two answers, got 'What?'"),
}


@pytest.mark.parametrize(("query", "label", "message"), BAD.values(), ids=BAD)
def test_errors_are_shown_as_openrlhf_hides_them(
    reward: Reward, capsys: pytest.CaptureFixture[str], query: str, label: str, message: str
) -> None:
    with pytest.raises((DataError, AnnotatorError)):
        reward([query], [PROMPT], [label])
    shown = capsys.readouterr().err
    assert shown.startswith("error: reward_func: ") and message in shown and shown.count("\n") == 1


def test_annotators_with_gpus_are_refused(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.protocol, "build", lambda name, options: SimpleNamespace(num_gpus=1))
    with pytest.raises(ConfigError, match="annotation.annotator: expected an annotator without GPUs, .*with 1'$"):
        Reward("config.yaml")
