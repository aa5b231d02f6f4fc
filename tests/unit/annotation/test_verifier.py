"""Verification of short answers by a scripted judge."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from maskdpo_ray.annotation.llm.judge import Conversation, Reply
from maskdpo_ray.annotation.llm.verifier import Verified, Verifier
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNPARSED, Question

QUESTION = Question(
    "q",
    "Rwanda",
    ({"role": "user", "content": "Capital of {Rwanda}?"},),
    answer="Kigali",
    facts={"asks": ["x"], "x": "K"},
)


class Gives:
    """Replies with `reply`, and notes what it was asked."""

    def __init__(self, reply: Reply | str) -> None:
        self._reply = reply if isinstance(reply, Reply) else Reply(reply)
        self.asked: list[tuple[int, list[Conversation]]] = []

    def start(self) -> None: ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        self.asked.append((max_tokens, list(conversations)))
        return [self._reply for _ in conversations]

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("It says Kigali,\nwhich agrees. [Correct]", NO_HALLUCINATION),
        ("The candidate [1] names Kampala. [INCORRECT].", CONTRADICTORY),
        ("It does not commit itself. [No Answer]", NO_FACT),
        ("I cannot tell. [Unsure]", UNPARSED),
        ("[Correct] It agrees. So: [Correct]", NO_HALLUCINATION),
        ("候选答案与标准答案矛盾。【错误】", CONTRADICTORY),
        ("【未作答】", NO_FACT),
        ("Correct", NO_HALLUCINATION),
        ("**Verdict:** Incorrect.", CONTRADICTORY),
    ],
)
def test_the_verdict_follows_the_reasoning(reply: str, label: str) -> None:
    assert Verifier(Gives(reply), 99).verify([(QUESTION, "Kigali")]) == [Verified(label, " ".join(reply.split()))]


@pytest.mark.parametrize(
    "reply",
    [
        Reply("[Correct]", fault="cut off"),
        Reply(""),
        Reply("It agrees."),
        Reply("[Correct] or [Incorrect]"),
        Reply("[Perhaps]"),
        Reply("Incorrect, or correct."),
    ],
)
def test_other_replies_are_unparsed(reply: Reply) -> None:
    assert Verifier(Gives(reply), 99).verify([(QUESTION, "Kigali")]) == [Verified(UNPARSED, reply.quoted())]


def test_each_answer_is_asked_about_once_with_all_that_decides() -> None:
    judge = Gives("[Correct]")
    verifier = Verifier(judge, 99)
    verifier.verify([(QUESTION, "Kigali {x}"), (QUESTION, " Kigali {x}\n"), (QUESTION, "Kampala")])
    verifier.verify([(QUESTION, "Kampala")])
    ((limit, conversations),) = [asked for asked in judge.asked if asked[1]]
    assert limit == 99 and len(conversations) == 2
    (message,) = conversations[0]
    assert message["role"] == "user"
    assert message["content"].endswith(
        "Question: Capital of {Rwanda}?\nStandard answer: Kigali / K\nCandidate answer: Kigali {x}\nEvaluation:"
    )
