"""Short answers: the same words, a scripted judge, and questions without a standard answer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from test_factscore import THIS

from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.evaluators.short_answer import ShortAnswer
from maskdpo_ray.records import Judgement, Question, Rollout

QUESTION = Question("q", "t", ({"role": "user", "content": "Where?"},), answer="The São Paulo")


def judge(evaluator: ShortAnswer, *answers: str, question: Question = QUESTION) -> list[Judgement]:
    evaluator.start()
    return evaluator.judge([(question, Rollout("q", i, (), text, "stop", 0)) for i, text in enumerate(answers)])


def outcome(judgement: Judgement) -> str:
    assert judgement.abstained is (not judgement.facts)
    return judgement.facts[0].verdict if judgement.facts else "unsure"


@pytest.mark.parametrize(
    ("standard", "answer", "expected"),
    [
        ("The São Paulo", "It is Sao  Paulo!", "supported"),
        ("The São Paulo", "SAO PAULO", "supported"),
        ("The São Paulo", "Saopaulo", "unsupported"),
        ("The São Paulo", "Paulo, not Sao", "unsupported"),
        ("The São Paulo", "I don't know, maybe São Paulo.", "unsure"),
        ("The São Paulo", "", "unsure"),
        ("1,000", "About 1000 of them.", "supported"),
        ("1000", "10,000", "unsupported"),
        ("1954年", "是在1954年制成的。", "supported"),
        ("北京", "上海", "unsupported"),
    ],
)
def test_words_are_compared(standard: str, answer: str, expected: str) -> None:
    (found,) = judge(ShortAnswer(), answer, question=replace(QUESTION, answer=standard))
    assert outcome(found) == expected
    assert all(fact.evidence == standard for fact in found.facts)


def test_a_judge_is_asked_where_words_do_not_settle_it() -> None:
    replies = {
        "Candidate answer: Sampa": "Correct",
        "Candidate answer: Not São Paulo": "[Incorrect] it denies",
        "Candidate answer: Perhaps Rio": "unsure.",
        "Candidate answer: Rio": "What?",
        "Candidate answer: Lima": Reply("Correct", fault="cut off"),
    }
    evaluator = ShortAnswer(THIS, {"replies": replies})
    answers = ("Sampa", "Not São Paulo", "Perhaps Rio", "Rio", "Lima", "São Paulo.", "I don't know.", "Sampa")
    found = [outcome(judgement) for judgement in judge(evaluator, *answers)]
    assert found == "supported unsupported unsure unparsed unparsed supported unsure supported".split()
    (unread,) = judge(evaluator, "Rio")
    assert unread.facts[0].evidence == "'What?'"
    asked = evaluator._judge.asked[0]
    assert len(asked) == 5 and "Standard answer: The São Paulo" in asked[0] and "Question: Where?" in asked[0]
    assert [outcome(judgement) for judgement in judge(evaluator, "São Paulo")] == ["supported"]  # asks nothing


@pytest.mark.parametrize("answer", [None, " ", "the", "?"])
def test_a_question_without_a_standard_answer(answer: str | None) -> None:
    ShortAnswer().check(QUESTION)
    with pytest.raises(DataError, match="^question 'q': answer: expected a standard answer for the short_answer eval"):
        ShortAnswer().check(replace(QUESTION, answer=answer))
