"""Prompts of the judged maker and how its replies are read."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from maskdpo_ray.data.builders import judged
from maskdpo_ray.data.builders.drafts import DOMAINS, OTHERS, Draft, Fault
from maskdpo_ray.data.builders.entries import Entry
from maskdpo_ray.data.builders.judged import Conversation, JudgedMaker, read_domain, read_drafts, read_quality
from maskdpo_ray.records import Question

RWANDA = Entry("Rwanda {x}", "A state in Africa.")
CHINA = Entry("卢旺达", "国家。", language="zh")


def block(number: int, question: str, *answers: str) -> str:
    names = ["Standard Answer", *(f"Wrong Answer {n}" for n in range(1, len(answers)))]
    lines = [f"[{name}]: {text}" for name, text in zip(names, answers, strict=True)]
    return "\n".join([f"[Question {number}]: {question}", *lines]) + "\n"


WHOLE = block(1, "Capital of Rwanda?", "Kigali.", "Kampala.", "Lima.", "Oslo.")
DRAFT = Draft(RWANDA, 1, "Capital of Rwanda?", "Kigali.", ("Kampala.", "Lima.", "Oslo."))


def test_drafts_of_a_reply() -> None:
    second = block(2, "Continent of Rwanda?", "Africa", "Asia", "Europe", "Oceania")
    found = read_drafts(RWANDA, f"Sure!\n\n{WHOLE}\n**{second}", 3)
    assert found == [DRAFT, Draft(RWANDA, 2, "Continent of Rwanda?", "Africa", ("Asia", "Europe", "Oceania"))]
    assert read_drafts(RWANDA, WHOLE + second, 1) == [DRAFT]


def test_a_chinese_reply() -> None:
    lines = (
        "【问题1】：卢旺达的首都是？",
        "【标准答案】：基加利。",
        "【错误答案1】：利马。",
        "【错误答案2】:河内。",
        "【错误答案3】：奥斯陆。",
    )
    reply = "\n".join(lines)
    assert read_drafts(CHINA, reply, 3) == [
        Draft(CHINA, 1, "卢旺达的首都是？", "基加利。", ("利马。", "河内。", "奥斯陆。"))
    ]


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "",
        "I can't.",
        block(1, "Q?", "A", "B", "C"),
        block(1, "Q?", "A", "B", "C", "D", "E"),
        block(1, "Q?", "A", "B", "a.", "D"),
        block(1, "Q?", "A", "B", "", "D"),
        block(1, "", "A", "B", "C", "D"),
        WHOLE.replace("[Standard Answer]", "[Wrong Answer 0]"),
    ],
)
def test_what_is_not_a_question_with_its_answers(reply: str | None) -> None:
    assert read_drafts(RWANDA, reply, 3) == [Fault.UNPARSED]


def test_one_bad_question_costs_no_other() -> None:
    assert read_drafts(RWANDA, block(1, "Q?", "A") + WHOLE.replace("1]", "2]", 1), 3)[0] is Fault.UNPARSED
    assert isinstance(read_drafts(RWANDA, block(1, "Q?", "A") + WHOLE, 3)[1], Draft)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("12", DOMAINS[11]),
        ("The domain is 12. astronomy & geography", DOMAINS[11]),
        ("Astronomy & Geography", DOMAINS[11]),
        ("21", OTHERS),
        ("22", OTHERS),
        ("1 or 2", OTHERS),
        ("none", OTHERS),
        (None, OTHERS),
    ],
)
def test_domains(reply: str | None, expected: str) -> None:
    assert read_domain(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("It names all. [High Quality]", None),
        ("'It' is unclear. [Unclear]", Fault.UNCLEAR),
        ("Many rivers [1] do. [SEVERAL  ANSWERS]", Fault.SEVERAL_ANSWERS),
        ("[time dependent]", Fault.TIME_DEPENDENT),
        ("【Obscure】", Fault.OBSCURE),
        ("[High Quality] [Unclear]", Fault.UNPARSED),
        ("High quality", Fault.UNPARSED),
        (None, Fault.UNPARSED),
    ],
)
def test_quality(reply: str | None, expected: Fault | None) -> None:
    assert read_quality(reply) is expected


def test_what_is_asked() -> None:
    asked: list[tuple[Sequence[Conversation], int]] = []

    def ask(conversations: Sequence[Conversation], max_tokens: int) -> list[str]:
        asked.append((conversations, max_tokens))
        return [WHOLE] * len(conversations)

    maker = JudgedMaker(ask, 2)
    assert maker.generate(RWANDA) == [DRAFT]
    maker.generate(CHINA)
    assert maker.classify([DRAFT]) == [OTHERS] and maker.assess([DRAFT]) == [Fault.UNPARSED]
    (of_rwanda, long), (of_china, _), (classification, short), (quality, _) = asked
    assert (long, short) == (judged.GENERATION_TOKENS, judged.CLASSIFICATION_TOKENS)
    english, chinese = (conversation[0]["content"] for conversation in (*of_rwanda, *of_china))
    assert english.endswith("[Object]: Rwanda {x}\n[Description]: A state in Africa.") and "up to 2 " in english
    assert chinese.endswith("【对象】：卢旺达\n【简介】：国家。") and "最多2个" in chinese
    assert "12. astronomy & geography\n" in classification[0][0]["content"]
    assert [message["role"] for message in quality[0]] == ["user", "assistant", "user"]
    of_entry = " ".join(message["content"] for message in (*classification[0], *quality[0]))
    assert "Capital of Rwanda?" in of_entry and RWANDA.description not in of_entry  # "independently", SMA 3.1


def test_the_examples_of_the_prompt_have_the_form_that_is_read() -> None:
    for language, template in judged._GENERATE.items():
        examples = [each for each in read_drafts(RWANDA, template, 9) if isinstance(each, Draft)]
        assert len(examples) == 2, language


def test_the_question_of_a_draft() -> None:
    assert DRAFT.made("medical") == Question(
        "Rwanda {x}/1",
        "Rwanda {x}",
        ({"role": "user", "content": "Capital of Rwanda?"},),
        document="A state in Africa.",
        facts={"domain": "medical"},
        answer="Kigali.",
        wrong_answers=("Kampala.", "Lima.", "Oslo."),
    )
