"""Tags in replies: as real annotators write them, negated tags, and look-alikes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.tags import Tags
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
    ("language", "reply"),
    [
        # A condition, a doubt, a part, an exception.
        ("en", "It would be consistent if the year were right."),
        ("en", "If the year is ignored, the verdict is consistent."),
        ("en", "Except for the year: consistent."),
        ("en", "Consistent except the year."),
        ("en", "Consistent with the passages except for the year"),
        ("en", "Consistent with most passages"),
        ("en", "Consistent in part."),
        ("en", "Consistent, in part."),
        ("en", "Part consistent"),
        ("en", "<Consistent> only in part"),
        ("en", "Probably consistent"),
        ("en", "Consistent, I think"),
        ("en", "Consistent, or so it seems"),
        ("en", "Consistent 50%"),
        ("zh", "基本一致"),
        ("zh", "大致一致"),
        ("zh", "一致（部分）"),
        ("zh", "看似一致"),
        # A denial without a "not" before the tag, or in another clause.
        ("en", "far from consistent"),
        ("en", "It fails to be consistent."),
        ("en", "anything but consistent"),
        ("en", "The opposite of consistent"),
        ("en", "There is nothing contradictory here."),
        ("en", "The passages do not show that it is <contradictory>."),
        ("en", "Neither contradictory nor anything else"),
        ("en", "It is not so consistent"),
        ("en", "Consistent (not really)"),
        ("en", "Consistent: incorrect"),
        ("en", "Consistent; no."),
        ("en", "Consistent. Just kidding."),
        ("zh", "难以一致"),
        ("zh", "缺乏一致"),
        ("zh", "很难说一致"),
        ("zh", "谈不上一致"),
        ("zh", "一致性差"),
        # A question, and a reason against it.
        ("en", "Is it consistent? No, it is wrong."),
        ("en", "Contradictory? The passages agree."),
        ("en", "Consistent.\nHowever, the passages say that it is false."),
        ("en", "Consistent. The sentence is wrong."),
        ("en", "Consistent. The year is off."),
        ("en", "Consistent, the year excluded"),
        ("en", "Consistent, as it were."),
        ("en", "Contradictory, as claimed by some"),
        ("en", "Consistent. The passages do not say so."),
        ("en", "Contradictory. It is not."),
        ("en", "Contradictory. The passages do not contradict it."),
        ("en", "Contradictory. The passages confirm it."),
        ("zh", "一致吗？不。"),
        ("zh", "一致。不过年份错了。"),
        ("zh", "一致。段落没有提到。"),
    ],
)
def test_a_reply_that_holds_a_verdict_but_does_not_state_it(language: str, reply: str) -> None:
    assert OWN["anah"][language]["verdict"].meaning(reply) is None


@pytest.mark.parametrize(
    ("language", "reply", "expected"),
    [
        ("en", "The verdict is: contradictory.", CONTRADICTORY),
        ("en", "Answer:\nContradictory", CONTRADICTORY),
        ("en", "Step 3: Consistent", NO_HALLUCINATION),
        ("en", "\\boxed{Contradictory}", CONTRADICTORY),
        ("en", "This part of the sentence is consistent with the passages.", NO_HALLUCINATION),
        ("en", "Contradictory, because the document says 1962, not 1963.", CONTRADICTORY),
        ("en", "Contradictory because the document says 1962.", CONTRADICTORY),
        ("en", "Contradictory. The year is wrong.", CONTRADICTORY),
        ("en", "Unverifiable. The passages do not mention the year.", UNVERIFIABLE),
        ("en", "**Verdict:** Consistent\n\n**Reason:** The passages say all that it claims.", NO_HALLUCINATION),
        ("en", "It says 1963, but the passages say 1962, so Contradictory.", CONTRADICTORY),
        ("en", "It might be 1963. The final verdict is **Contradictory**.", CONTRADICTORY),
        ("zh", "答案是：“相反”。", CONTRADICTORY),
        ("zh", "相反，因为段落说是1962年。", CONTRADICTORY),
        ("zh", "无从查证。段落没有提到年份。", UNVERIFIABLE),
    ],
)
def test_a_verdict_with_a_label_or_reasons(language: str, reply: str, expected: str) -> None:
    assert OWN["anah"][language]["verdict"].meaning(reply) == expected


@pytest.mark.parametrize("reply", ["No. Facts present.", "No, facts present.", "No. Facts.", "No\nfacts"])
def test_no_tag_goes_across_punctuation(reply: str) -> None:
    assert OWN["anah"]["en"]["fact"].meaning(reply) is None


def test_punctuation_of_its_own_is_part_of_a_tag() -> None:
    assert Tags({"No, it is not": "no"}).meaning("No, it is not.") == "no"


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
        ("I would not say there is no passage.", None),
        ("There is no passage, but one about Peru.", None),
        ("No passage: no", None),
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
