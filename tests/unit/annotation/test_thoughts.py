"""Thinking of judges: removed before a reply is parsed, for any judge; an unclosed block makes it unparsed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from test_check_annotator_own_judge import GIVES, QUESTION, ROLLOUT

from maskdpo_ray.annotation.llm import judge, thoughts
from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.annotation.llm.tags import Tags
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import OptionError
from maskdpo_ray.evaluation.evaluators.protocol import build as build_evaluator
from maskdpo_ray.records import NO_FACT, UNPARSED, UNSUPPORTED


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("No claim", "No claim"),
        (" No claim\n", " No claim\n"),  # without thinking nothing changes
        ("<think>\nHas a claim? Hm.\n</think>\n\nNo claim", "No claim"),
        ("Has a claim? Hm.\n</think>\n\nNo claim", "No claim"),  # the prompt opened it
        ("<think>\n\n</think>\n\nNo claim", "No claim"),
        ("<THINK>a</Think>No claim", "No claim"),
        ("<think>a <think> b</think> c</think>No claim", "No claim"),
        ("a</think>b<think>c</think>No claim", "bNo claim"),
        ("<thinking>a</thinking>No claim", "No claim"),
        ("[THINK]a[/THINK]No claim", "No claim"),
        ("<seed:think>a</seed:think>No claim", "No claim"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>No claim", "No claim"),
        ("<think>Has a claim", None),
        ("a</think><think>No claim", None),
        ("<think></think>", ""),
    ],
)
def test_what_is_left(said: str, expected: str | None) -> None:
    assert thoughts.stripped(said) == expected


def test_where_a_prompt_ends_in_a_tag() -> None:
    assert thoughts.opened("<|assistant|><think>\n") == "<think>"
    assert thoughts.opened("<|assistant|><think>\n\n</think>\n\n") == thoughts.opened("") == ""


THINKS = "<think>Has a claim. Contradictory. True? Correct. - NONE</think>\n"


@pytest.mark.parametrize(
    ("said", "label", "evidence"),
    [
        (THINKS + "No claim", NO_FACT, None),
        (THINKS.removeprefix("<think>") + "No claim", NO_FACT, None),
        ("<think>No claim", UNPARSED, "fact: '<think>No claim' (its thinking has no end)"),
        (THINKS, UNPARSED, "fact: ''"),
    ],
)
@pytest.mark.parametrize("name", ["anah", "claims"])
def test_annotators_read_the_reply(name: str, said: str, label: str, evidence: str | None) -> None:
    annotator = build(name, {"judge": GIVES, "judge_options": {"reply": Reply(said, -1.0)}})
    annotator.start()
    if name == "claims":
        annotator._parts.of = lambda sentences: {each: [(0, len(each.sentence))] for each in sentences}  # type: ignore[attr-defined]
    (found,) = annotator.annotate([(QUESTION, ROLLOUT)])
    assert {(each.label, each.evidence, each.confidence) for each in found.sentences} == {(label, evidence, None)}


def test_evaluators_read_the_reply() -> None:
    for name, reply, verdicts in (
        ("short_answer", "**Incorrect.**", [UNSUPPORTED]),
        ("short_answer", "not correct", [UNPARSED]),
        ("factscore", "- The statement is false", [UNSUPPORTED] * 2),
        ("factscore", "- **NONE**", []),
        ("factscore", "NONE", []),
    ):
        evaluator = build_evaluator(name, {"judge": GIVES, "judge_options": {"reply": Reply(THINKS + reply)}})
        evaluator.start()
        (found,) = evaluator.judge([(QUESTION, ROLLOUT)])
        assert [fact.verdict for fact in found.facts] == verdicts, (name, reply)


def test_log_probabilities_are_of_the_reply_alone() -> None:
    class Own:
        thinking = thoughts.from_option({"open": "<<", "close": ">>"})

        def ask(self, *_: Any) -> list[Reply]:
            return [Reply("No claim", -0.5), Reply("<<hm>>No claim", -9.0), Reply("<<hm", -9.0, "cut off")]

    asked = judge.ask(Own(), [[], [], []], 9)  # type: ignore[arg-type, list-item]
    assert asked == [Reply("No claim", -0.5), Reply("No claim"), Reply("<<hm", -9.0, "cut off")]


@pytest.mark.parametrize(
    "value", [{}, {"open": "<a>"}, {"open": "<a>", "close": " "}, "think", {"open": 1, "close": 2}]
)
def test_tags_that_are_none(value: Any) -> None:
    with pytest.raises(OptionError, match="^thinking: expected {open: text, close: text}, got "):
        thoughts.from_option(value)


def test_time_grows_with_the_length() -> None:
    """An endpoint may send anything: both take a fraction of a second for a megabyte."""
    begin = time.monotonic()
    assert thoughts.stripped("<think>" * 150_000) is None
    assert thoughts.stripped("<think></think>" * 70_000) == ""
    assert Tags({"Contradictory": "c"}).meaning("contradictory\n" * 70_000) == "c"
    for piece in ("\n", " ", "\\", "`"):
        assert Tags({"Contradictory": "c"}).meaning("contradictory" + piece * 50_000) == "c"
    assert time.monotonic() - begin < 20
