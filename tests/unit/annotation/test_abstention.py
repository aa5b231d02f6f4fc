"""Answers that say that they don't know: a set marked by hand, the kinds of look-alikes, and time."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from maskdpo_ray.annotation.abstention import abstains

MARKED = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "fixtures/abstentions.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("part", ["open", "held_back", "held_back_again"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_precision_and_recall_on_answers_marked_by_hand(part: str, language: str) -> None:
    rows = [row for row in MARKED if row["part"] == part and row["language"] == language]
    found = Counter((row["abstains"], abstains(row["text"])) for row in rows)
    assert found[True, True] >= 6 and found[False, False] >= 6
    assert found[False, True] == 0, "taken for an abstention"
    assert found[True, True] / (found[True, True] + found[True, False]) >= 0.95


def test_the_marked_answers_are_enough_of_each_kind() -> None:
    kinds = Counter((row["part"] == "open", row["language"], row["abstains"]) for row in MARKED)
    assert len(kinds) == 8 and sum(kinds.values()) == len({row["text"] for row in MARKED}) >= 130
    assert kinds[True, "en", True] + kinds[True, "zh", True] >= 30
    assert kinds[True, "en", False] + kinds[True, "zh", False] >= 30


@pytest.mark.parametrize(
    "answer",
    [
        # Openings and details that do not change the result.
        "I’m sorry, but as an AI language model I don't have access to personal information.",
        "Sorry, I don't know who Dr. Maria Reed is.",
        "I DON'T KNOW",
        "“I don't know.”",
        "Sorry.",
        "**Unknown**",
        "I don't know, and I don't want to guess.",
        "I don't think I have information on that topic.",
        "I'm not aware of a person named Tom Vex who won that prize. It might be a typo.",
        "Based on the given passages, I cannot determine the year.",
        "The context does not say when he was born.",
        "Could you clarify which Maria Reed you mean?",
        "我無法回答這個問題，請提供更多資訊。",
        "我的知识库中没有相关内容。",
        "文中没有提到他的出生地。",
        "这个我不知道。",
        # Nothing but a lack of knowledge, without the answerer.
        "It is unknown.",
        "It's hard to say.",
        "The answer is unclear.",
        "不好说。",
        "这个很难说。",
        "说不准。",
        # An apology behind it.
        "Not sure, sorry!",
        "No idea, I'm afraid.",
        # Words of an exception or a second negation, without a claim.
        "I can't answer without more information.",
        "I don't know whether it is or not.",
        "我不知道他有没有去过。",
    ],
)
def test_abstentions(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        # Another subject, a title, a quotation.
        "He couldn't find work.",
        "Unable to find work, he left for Paris.",
        "We do not know when Homer lived.",
        "Not Sure is the hero of Idiocracy.",
        "I Am Not Okay with This is a Netflix series.",
        "No information can escape a black hole.",
        "Limited information on the disease slowed its treatment.",
        "None, since Monaco has no army.",
        "I am able to confirm that Lima is the capital.",
        "不知道他的人很少。",
        "作为AI先驱，图灵于1950年提出了图灵测试。",
        # A claim beside it.
        "I'm not sure, but Lima?",
        "Lima. I'm not sure about the year, though.",
        "I'm not sure. Please note that Lima is the capital.",
        "I don't know if you noticed, but Lima is the capital.",
        "I don't know her, she was born in Lima.",
        "I am unable to find errors in your text: Lima is the capital, as you say.",
        "If you mean the capital of Peru, it is Lima. I don't know the other one.",
        "It is unclear whether Homer existed. Do historians agree? No.",
        "我不确定，应该是利马。",
        "我不清楚。请注意，利马是秘鲁的首都。",
        # A claim inside it: an exception, a comparison, a second negation, an apposition.
        "I can't answer without mentioning Paris, the capital.",
        "I'm unable to find a better capital than Paris.",
        "I cannot name any capital other than Paris.",
        "I have no information beyond the fact that it is Paris.",
        "I'm not sure anyone doubts that it is Paris.",
        "I don't know anyone who doesn't know it is Paris.",
        "I can't say enough about Paris.",
        "I don't know why you ask about Paris, the capital.",
        "我不知道还有谁不知道首都是巴黎",
        "我不知道除了巴黎还有哪个首都",
        "我找不到比巴黎更合适的答案",
        "It is unknown. It is Paris.",
        "The population of Lima is unknown.",
        "不好说，应该是利马。",
        "1. Lima",
        "42",
    ],
)
def test_answers_that_commit_themselves(answer: str) -> None:
    assert not abstains(answer)


@pytest.mark.parametrize(
    "piece",
    "sorry, |I don't |not really |it may |could |“|as of |对|我对|不知道，|没有|i'm just an ai |- |if you know, ".split(
        "|"
    ),
)
def test_long_odd_text_takes_little_time(piece: str) -> None:
    start = time.process_time()
    for text in (piece * 20_000, "I " + piece * 20_000, piece * 100, "我" + piece * 60):
        abstains(text)
    assert time.process_time() - start < 3
