"""Tags in replies: as real annotators write them, negated tags, and look-alikes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.annotators import turns
from maskdpo_ray.annotators.tags import Tags
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE

DOCUMENT = "The Alps rise here. There is no passage through them in winter.\nKigali is the capital."
OWN = {name: turns.read(turns.TEMPLATES / f"{name}.yaml", getattr(turns, name.upper())) for name in ("anah", "claims")}


@pytest.mark.parametrize("name", ["anah", "claims"])
@pytest.mark.parametrize(
    ("language", "turn", "reply", "expected"),
    [
        # ANAH-v2's own tags, and ours, with what real replies put around them.
        ("en", "fact", "<No Facts>", NO_FACT),
        ("en", "fact", "<No Fact>", NO_FACT),
        ("en", "fact", "<Facts Present>", turns.HAS_FACT),
        ("en", "fact", "No facts present.", NO_FACT),
        ("en", "fact", "It has no claim.", NO_FACT),
        ("en", "fact", "**Has a claim**: the year of independence.", turns.HAS_FACT),
        ("en", "fact", "It does not have a claim", None),
        ("en", "verdict", "<No Hallucination>", NO_HALLUCINATION),
        ("en", "verdict", "No Hallucination.", NO_HALLUCINATION),
        ("en", "verdict", "nohallucination", NO_HALLUCINATION),
        ("en", "verdict", "**Contradictory**", CONTRADICTORY),
        ("en", "verdict", "The sentence is `contradictory`: the passages say 1962.", CONTRADICTORY),
        ("en", "verdict", '{"type": "Contradictory"}', CONTRADICTORY),
        ("en", "verdict", "ＣＯＮＴＲＡＤＩＣＴＯＲＹ", CONTRADICTORY),
        ("en", "verdict", "Contradictory. It is contradictory.", CONTRADICTORY),
        ("en", "verdict", "The passages do not mention the year, so <Unverifiable>.", UNVERIFIABLE),
        ("en", "verdict", "Unverifiable (not in the passages)", UNVERIFIABLE),
        ("zh", "fact", "<无事实>", NO_FACT),
        ("zh", "fact", "结论：「有可查内容」。", turns.HAS_FACT),
        ("zh", "fact", "没有可查内容", None),
        ("zh", "verdict", "<无幻觉>", NO_HALLUCINATION),
        ("zh", "verdict", "这句话与段落相反。", CONTRADICTORY),
        ("zh", "verdict", "段落没有提到，因此无法验证。", UNVERIFIABLE),
        ("zh", "verdict", "非常一致", NO_HALLUCINATION),
        # Two different ones, or a negated one, or none.
        ("en", "verdict", "Contradictory or Unverifiable", None),
        ("en", "verdict", "Consistent. No, wait: contradictory.", None),
        ("en", "verdict", "not contradictory", None),
        ("en", "verdict", "The sentence isn't <Contradictory>.", None),
        ("en", "verdict", "There is nothing in it that could be called contradictory.", None),
        ("en", "verdict", "Contradictory: no", None),
        ("en", "verdict", "Contradictory isn't the word.", None),
        ("en", "verdict", "non-contradictory", None),
        ("en", "verdict", "partially consistent", None),
        ("en", "verdict", "Inconsistent", None),
        ("en", "verdict", "Hallucination", None),
        ("en", "verdict", "", None),
        ("zh", "verdict", "不一致", None),
        ("zh", "verdict", "部分一致", None),
        ("zh", "verdict", "相反：否", None),
    ],
)
def test_a_reply_that_holds_one_tag(name: str, language: str, turn: str, reply: str, expected: str | None) -> None:
    assert OWN[name][language][turn].meaning(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<No Reference Information>", turns.NO_REFERENCE),
        ("<No Reference Information> The document is about Peru.", turns.NO_REFERENCE),
        ("There is no passage about its currency.", turns.NO_REFERENCE),
        ("No passage", turns.NO_REFERENCE),
        ("**No passage.**", turns.NO_REFERENCE),
        ("Kigali is the capital.", turns.PASSAGES),
        ("There is no passage through them in winter.", turns.PASSAGES),  # the document's words
        ('1. "There is no passage through them in winter."\n2. Kigali is the capital.', turns.PASSAGES),
        ("The Alps rise here.<SEP>There is no passage through them in winter.", turns.PASSAGES),
        ("Kigali is the capital.\nNo passage", None),  # both
        ("...", None),
    ],
)
def test_passages_may_hold_the_words_of_a_tag(reply: str, expected: str | None) -> None:
    assert OWN["anah"]["en"][turns.REFERENCE].meaning(reply, DOCUMENT) == expected


def test_a_tag_of_one_word_must_stand_apart_among_passages() -> None:
    turn = turns.Turn(turns.REFERENCE, "", {"none": turns.NO_REFERENCE})
    found = [turn.meaning(reply) for reply in ("None", "<None>: nothing fits", "None of it", "It says: none.")]
    assert found == [turns.NO_REFERENCE, turns.NO_REFERENCE, turns.PASSAGES, turns.NO_REFERENCE]


TEXTS = ("No Hallucination", "Hallucination", "Fact", "No Fact", "Correct", "Incorrect", "一致", "不一致")
TAGS = Tags({text: text for text in TEXTS})


@given(
    st.sampled_from(TEXTS),
    st.sampled_from([str, str.upper, str.lower, str.title]),
    st.sampled_from(["{}", "<{}>", "**{}**", '"{}".', "Answer: {}", "\n{}\n\n", "「{}」", "<b>{}</b>", "Step 3: {} !"]),
)
def test_tags_that_hold_each_other(tag: str, case: object, frame: str) -> None:
    """Each tag has its meaning in any context; two of them have none."""
    reply = frame.format(case(tag))  # type: ignore[operator]
    assert TAGS.meaning(reply) == tag
    other = TEXTS[(TEXTS.index(tag) + 3) % len(TEXTS)]
    assert TAGS.meaning(f"{reply} / {other}") is None
