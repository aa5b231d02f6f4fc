"""Statements of answers, and what the policy says of them."""

from __future__ import annotations

import pytest

from maskdpo_ray.pairing.atoms import Statement, detection_question, knowledge, label, statements, verdict
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Annotation,
    Question,
    Rollout,
    Sentence,
)

QUESTION = Question("rwanda/five", "Rwanda", ({"role": "user", "content": "Give five short facts about Rwanda."},))
KIGALI = Statement("rwanda/five", "Rwanda", "The capital of Rwanda is Kigali.", True)


def answer(*labelled: tuple[str, str], sample: int = 0) -> tuple[Rollout, Annotation]:
    """An answer of these sentences, each with its label."""
    text, spans = "", []
    for sentence, name in labelled:
        spans.append(Sentence(len(text), len(text) + len(sentence), name))
        text += sentence + " "
    return Rollout("rwanda/five", sample, (), text, "stop", 0), Annotation("rwanda/five", sample, tuple(spans))


def texts(*sentences: str, question: Question = QUESTION) -> list[str]:
    """Statements of an answer of right sentences."""
    return [each.text for each in statements(question, [answer(*((one, NO_HALLUCINATION) for one in sentences))])]


def test_right_and_wrong_sentences_are_statements_and_no_others() -> None:
    found = statements(
        QUESTION,
        [
            answer(
                ("The capital of Rwanda is Kigali.", NO_HALLUCINATION),
                ("Rwanda is in Asia.", CONTRADICTORY),
                ("Rwanda is a land of hills.", UNVERIFIABLE),
                ("Rwanda is interesting.", NO_FACT),
                ("Rwanda is near.", UNPARSED),
            )
        ],
    )
    assert found == [KIGALI, Statement("rwanda/five", "Rwanda", "Rwanda is in Asia.", False)]


def test_each_text_once_and_none_that_is_labelled_both_ways() -> None:
    first = answer(("Rwanda is in Africa.", NO_HALLUCINATION), ("- **Rwanda** is flat", CONTRADICTORY))
    second = answer(("Rwanda is in Africa", NO_HALLUCINATION), ("Rwanda is flat.", NO_HALLUCINATION), sample=1)
    assert [each.text for each in statements(QUESTION, [first, second])] == ["Rwanda is in Africa."]


@pytest.mark.parametrize(
    "sentence",
    [
        "It is in Africa, like Rwanda.",
        "Its capital in Rwanda is Kigali.",
        "The capital is Kigali.",
        "Rwandan francs are used.",
        "Rwanda borders Uganda and Burundi.",
        "Rwanda borders Uganda, Burundi.",
        "Rwanda is in Africa; it is small.",
        "Rwanda is in Africa but small.",
        "Is Rwanda in Africa?",
        "Rwanda",
        "1. Rwanda:",
        f"Rwanda is {'very ' * 40}small.",
    ],
)
def test_not_a_statement(sentence: str) -> None:
    assert texts(sentence) == []


def test_topics_of_several_words() -> None:
    bosnia = Question("q", "Bosnia and Herzegovina", QUESTION.prompt)
    assert texts("Bosnia and Herzegovina's capital is Sarajevo.", "Bosnia is a state.", question=bosnia) == [
        "Bosnia and Herzegovina's capital is Sarajevo."
    ]
    gambia = Question("q", "The Gambia", QUESTION.prompt)
    assert texts("1) the Gambia is in *Africa*", question=gambia) == ["the Gambia is in Africa."]


def test_chinese_statements() -> None:
    question = Question("q", "卢旺达", QUESTION.prompt, language="zh")
    sentences = ("卢旺达的首都是基加利。", "它在非洲，卢旺达很小。", "卢旺达与乌干达接壤。", "首都是基加利。")
    assert texts(*sentences, question=question) == ["卢旺达的首都是基加利。"]


def test_the_detection_question() -> None:
    question = detection_question(KIGALI)
    assert question == Question(
        "rwanda/five/7f56a358188f",
        "Rwanda",
        (
            {
                "role": "user",
                "content": "Is the following statement true or false? Reply with one word, True or False.\n\n"
                "The capital of Rwanda is Kigali.",
            },
        ),
        answer="True",
    )
    wrong = Statement("rwanda/five", "Rwanda", "Rwanda is in Asia.", False)
    few_shot = detection_question(wrong, few_shot=True)
    assert few_shot.answer == "False" and few_shot.id != question.id
    assert [message["role"] for message in few_shot.prompt] == ["user", "assistant"] * 2 + ["user"]
    assert [message["content"] for message in few_shot.prompt[1::2]] == ["True", "False"]
    assert "Rwanda is in Asia." in few_shot.prompt[-1]["content"]
    chinese = detection_question(Statement("q", "卢旺达", "卢旺达在亚洲。", False, "zh"), few_shot=True)
    assert (chinese.answer, chinese.language, chinese.prompt[1]["content"]) == ("错误", "zh", "正确")


SAYS_TRUE = """
True
true.
TRUE!
**True**
True. The capital of Rwanda is Kigali.
Answer: True
The statement is true.
It's true because Kigali is there.
Yes.
Yes, Kigali is the capital.
Yes, it is true.
(A) True
Correct
{"answer": "true"}
This is a true statement.
It is not false.
That's right
The statement "Rwanda is big" is true.
The statement that the capital of Rwanda is Kigali is true.
True or false? True.
正确
这个说法是对的。
"""
SAYS_FALSE = """
False
False. pulumi
The statement is false. Moscow is not the capital.
No.
No, the capital is Kigali.
Not true.
It isn't true.
This isn’t correct.
The correct answer is false.
Incorrect, it is in Africa.
untrue
It is not entirely accurate.
True/False: False
不正确。
该陈述是错误的。
"""
SAYS_NEITHER = """
Kigali
True or false?
True, False
True. False.
Maybe.
It could be true.
I'm not sure if it is true.
If true, it is news.
The true capital of Rwanda is Kigali.
Neither true nor false.
Probably true.
Partially true.
Although false, yes, I can be a helper.
It is true, but the statement is false.
No, it is true.
我不知道。
正确还是错误？
"""


@pytest.mark.parametrize(
    ("expected", "replies"),
    [(True, SAYS_TRUE), (False, SAYS_FALSE), (None, SAYS_NEITHER)],
    ids=["true", "false", "none"],
)
def test_what_a_reply_says(expected: bool | None, replies: str) -> None:
    said = {reply: verdict(reply) for reply in replies.strip().split("\n")}
    assert said == dict.fromkeys(said, expected)


def test_an_empty_reply_and_one_of_several_lines() -> None:
    assert verdict(" \n") is None
    assert verdict("Answer:\n\nFalse\n") is False


@pytest.mark.timeout(5)
def test_no_reply_takes_long() -> None:
    for part in ("the statement ", "that a is ", "not ", '"', "true ", "indeed ", "这个"):
        for length in (190, 40_000):
            verdict(part * (length // len(part)))


def test_the_label_of_a_reply() -> None:
    question = detection_question(KIGALI)

    assert label(question, "True.") == NO_HALLUCINATION
    assert label(question, "False, no.") == CONTRADICTORY
    assert label(question, "Kigali") == NO_FACT
    false = detection_question(Statement("q", "卢旺达", "卢旺达在亚洲。", False, "zh"))
    assert (label(false, "错误"), label(false, "正确")) == (NO_HALLUCINATION, CONTRADICTORY)


@pytest.mark.parametrize(
    ("verdicts", "of_true", "of_false"),
    [
        ([True, True], "known", "unknown"),
        ([False, None], "unknown", "known"),
        ([True, False, None], "potentially_known", "potentially_known"),
        ([None, None], "unparsed", "unparsed"),
        ([], "unparsed", "unparsed"),
    ],
)
def test_knowledge(verdicts: list[bool | None], of_true: str, of_false: str) -> None:
    assert (knowledge(verdicts, True), knowledge(verdicts, False)) == (of_true, of_false)
