"""The `verdict` annotator: prompts and replies of published fact checkers, and of files of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.judge import Conversation, Reply
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Question,
    Rollout,
    Sentence,
)

QUESTION = Question("q", "t", ({"role": "user", "content": "Which capital?"},), "The capital is {Kigali}.")
SENTENCE = "It is Kigali."


class Scripted:
    """Gives one reply to all, and keeps what it was asked."""

    gives_logprobs = True

    def __init__(self, reply: str = "", cut: bool = False) -> None:
        self._reply = Reply(reply, -0.5, "cut off" if cut else None)
        self.asked: list[Conversation] = []

    def start(self) -> None: ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        self.asked += [list(each) for each in conversations]  # they grow
        return [self._reply] * len(conversations)

    def close(self) -> None: ...


def started(templates: str, reply: str = "", cut: bool = False) -> Any:
    built: Any = build(
        "verdict",
        {"templates": templates, "judge": f"python:{__name__}:Scripted", "judge_options": {"reply": reply, "cut": cut}},
    )
    built.start()
    return built


def labelled(templates: str, reply: str, cut: bool = False) -> Sentence:
    (annotation,) = started(templates, reply, cut).annotate([(QUESTION, Rollout("q", 0, (), SENTENCE, "stop", 0))])
    (sentence,) = annotation.sentences
    return sentence


THOUGHT = "<think>Rather unsure. <answer>No</answer></think>\n<reason>The document\nsays so.</reason>\n"
FACTS = "### Facts\nKigali is a city: {}\nThe time is 10:30 there: {}"


@pytest.mark.parametrize(
    ("templates", "reply", "label"),
    [
        ("bespoke_minicheck", "Yes", NO_HALLUCINATION),
        ("bespoke_minicheck", " no.", UNVERIFIABLE),
        ("bespoke_minicheck", "Probably yes", UNPARSED),
        ("bespoke_minicheck", "", UNPARSED),
        ("faithlens", THOUGHT + "<answer>Yes</answer>", NO_HALLUCINATION),
        ("faithlens", THOUGHT + "<answer> no\n</answer>", UNVERIFIABLE),
        ("faithlens", THOUGHT + "<answer>Partly</answer>", UNPARSED),
        ("faithlens", THOUGHT + "<answer>Yes</answer> or <answer>No</answer>", UNPARSED),
        ("faithlens", THOUGHT + "Yes", UNPARSED),
        ("faithlens", "<think>never closed <answer>Yes</answer>", UNPARSED),
        ("lynx", '{"REASONING": ["It \\"fails\\" nothing."], "SCORE": "PASS"}', NO_HALLUCINATION),
        ("lynx", '{"REASONING": ["SCORE?"], "SCORE": FAIL}', UNVERIFIABLE),
        ("lynx", '{"REASONING": ["no score"]}', UNPARSED),
        ("lynx", '{"REASONING": [], "SCORE": "5"}', UNPARSED),
        ("verifastscore", FACTS.format("Supported", "Supported"), NO_HALLUCINATION),
        ("verifastscore", FACTS.format("Supported", "Unsupported"), UNVERIFIABLE),
        ("verifastscore", FACTS.format("Supported", "Inconclusive"), UNPARSED),
        ("verifastscore", "### Facts\nNo verifiable claim.", NO_FACT),
        ("verifastscore", "No verifiable claim.", NO_FACT),
        ("verifastscore", "Kigali is a city.", UNPARSED),
        ("verifastscore", "### Facts", UNPARSED),
    ],
)
def test_replies(templates: str, reply: str, label: str) -> None:
    assert labelled(templates, reply).label == label
    assert labelled(templates, reply, cut=True).label == UNPARSED


def test_confidence_and_evidence() -> None:
    """A bare reply has the probability of its verdict; one with reasons has the reasons."""
    bare = labelled("bespoke_minicheck", "Yes")
    assert (bare.confidence, bare.evidence) == (pytest.approx(math.exp(-0.5)), None)
    argued = labelled("faithlens", THOUGHT + "<answer>Yes</answer>")
    assert argued.confidence is None
    assert argued.evidence == "<reason>The document says so.</reason> <answer>Yes</answer>"
    assert labelled("lynx", '{"SCORE": "FAIL"}').confidence is None
    assert [started(each).gives_confidence for each in ("bespoke_minicheck", "faithlens")] == [True, False]


@pytest.mark.parametrize("templates", ["bespoke_minicheck", "faithlens", "lynx", "verifastscore"])
def test_what_is_asked(templates: str) -> None:
    annotator = started(templates, "Yes")
    annotator.annotate([(QUESTION, Rollout("q", 0, (), f"{SENTENCE} {SENTENCE} Or not.", "stop", 0))])
    assert annotator.counts == {"sentences": 3, "judged": 2, "calls": 2, "unparsed": 0 if templates[0] == "b" else 2}
    system = {"bespoke_minicheck", "verifastscore"}
    for conversation, sentence in zip(annotator.judge.asked, (SENTENCE, "Or not."), strict=True):
        assert [each["role"] for each in conversation] == ["system"] * (templates in system) + ["user"]
        asked = conversation[-1]["content"]
        assert QUESTION.document in asked and sentence in asked
        assert ("Which capital?" in asked) is (templates == "lynx")
    with pytest.raises(DataError, match="document: expected reference text for the verdict annotator"):
        annotator.check(Question("q", "t", QUESTION.prompt))
    with pytest.raises(DataError, match="language: expected one of the templates' en; got 'zh'"):
        annotator.check(Question("q", "t", QUESTION.prompt, "文", language="zh"))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """Template as one writes for Lynx: the model card's prompt, with braces of JSON, and its reply."""
    file = tmp_path / "mine.yaml"
    turn = {
        "prompt": 'D: {document}\nA: {sentence} of {context}\n{"SCORE": <score>}',
        "replies": {"no_hallucination": ["PASS"], "contradictory": ["FAIL"], "no_fact": ["NONE"]},
    }
    file.write_text(yaml.safe_dump({"en": {"verdict": turn}, "zh": {"verdict": turn}}))
    assert labelled(str(file), "FAIL").label == CONTRADICTORY
    assert labelled(str(file), "none").label == NO_FACT


def changed(**turn: Any) -> str:
    good: dict[str, Any] = {
        "prompt": "{document} {sentence}",
        "replies": {"no_hallucination": ["Yes"], "unverifiable": ["No"]},
    }
    return yaml.safe_dump({"en": {"verdict": good | turn}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (changed(prompt="{document}"), ": en.verdict.prompt: expected {sentence} in it"),
        (changed(prompt="{sentence}"), ": en: expected {document} in the prompt of verdict"),
        (changed(prompt="{document} {sentence} {reference}"), ": en.verdict.prompt: expected only the fields {docu"),
        (changed(replies={"no_hallucination": ["Y"]}), ".replies: expected contradictory or unverifiable; both"),
        (changed(replies={"unverifiable": ["N"]}), ".replies: expected no_hallucination; no_hallucination is missing"),
        (changed(pattern="(a"), ".pattern: expected a regular expression with a group, got '(a'"),
        (changed(pattern="a"), ".pattern: expected a regular expression with a group, got 'a'"),
        (changed(several="worst"), ".several: expected one of agree, worst, with a pattern; got 'worst'"),
        (changed(pattern="(a)", several="best"), ".several: expected one of agree, worst, with a pattern; got 'best'"),
        (changed(system=""), ".system: expected text, got ''"),
        ("en: {fact: {}}", ": en: expected only verdict; got 'fact'"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        started(str(file))
    assert str(caught.value).startswith(str(file)) and expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none_of_ours() -> None:
    with pytest.raises(ConfigError, match="^minicheck: expected a YAML file of templates, got: No such file .*; ours"):
        started("minicheck")
    assert turns.find("lynx") == turns.TEMPLATES / "lynx.yaml"
    assert turns.find("./lynx.yaml") == Path("lynx.yaml")
