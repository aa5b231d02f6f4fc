"""The authors' JSON: a round trip loses nothing, and rewritten sentences are found or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.data.formats import authors
from maskdpo_ray.data.formats.alignment import locate
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.errors import DataError
from maskdpo_ray.records import LABELS, Sentence

text = st.text(st.characters(codec="utf-8"), max_size=20)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": text})
item = st.fixed_dictionaries({"sents": st.lists(text, max_size=3), "type": st.lists(text, max_size=3)})
named = {
    "prompt": st.lists(message, max_size=3),
    "chosen": st.lists(message, max_size=2),
    "chosen_item": item,
    "rejected": st.lists(message, max_size=2),
    "rejected_item": item,
}
others = st.dictionaries(text.filter(lambda name: name not in named), st.none() | st.integers() | text, max_size=3)
authors_items = st.tuples(st.fixed_dictionaries(named), others).map(lambda parts: {**parts[0], **parts[1]})


@given(authors_items)
def test_round_trip_of_theirs_loses_nothing(value: dict[str, Any]) -> None:
    assert json.loads(json.dumps(authors.unparse(authors.parse(value, "x")))) == value


@st.composite
def labelled_answers(draw: st.DrawFn) -> Answer:
    """Words in labelled spans, any white space or none between them."""
    words = draw(st.lists(st.text("ab.!中*", min_size=1, max_size=6), min_size=1, max_size=5))
    whole, sentences = draw(st.sampled_from(["", " ", "\n"])), []
    for word in words:
        start = len(whole)
        whole += word
        label, confidence = draw(st.sampled_from(LABELS)), draw(st.none() | st.floats(0, 1))
        sentences.append(Sentence(start, len(whole), label, confidence, draw(st.none() | text), "capital"))
        whole += draw(st.sampled_from(["", " ", "\n\n", " - "]))
    return Answer(whole, tuple(sentences))


PROMPT = ({"role": "user", "content": "Where?"},)
preferences = st.builds(
    Preference, st.just("q/1"), st.just("Rwanda"), st.just(PROMPT), labelled_answers(), labelled_answers()
)


@given(preferences)
def test_round_trip_of_ours_loses_nothing(preference: Preference) -> None:
    assert authors.read(json.loads(json.dumps(authors.to_json(preference))), "x:1") == preference


REWRITTEN = {
    "number": ("It grew. 3.5 million fans came.", ["It grew.", "3. 5 million fans came."], None),
    "month": ("On Jan. 5. She left.", ["On Jan. 5.She left."], None),
    "initials": ("J.K. Rowling wrote. He read.", ["J. K.Rowling wrote.", "He read."], None),
    "list": ("1. Kigali\n2.  Butare", ["1.Kigali", "2. Butare"], None),
    "colon": ("Facts:\n\nKigali is big.", ["Facts: Kigali is big."], None),
    "Chinese": ("首都： 基加利。很大！", ["首都：基加利。", "很大！"], None),
    "Markdown inside": ("It is **very** big. `Yes`.", ["It is very big.", "Yes."], ["It is **very** big.", "Yes`."]),
    "bullets": ("- One.\n- Two.", ["One.", "Two."], ["One.", "Two."]),
    "a sentence left out": ("One. Two. Three.", ["One.", "Three."], ["One.", "Three."]),
    "the same again": ("No. No. Yes.", ["No.", "No.", "Yes."], None),
    "no-break space": ("One\u00a0two.", ["One two."], None),
}


@pytest.mark.parametrize(("answer", "sents", "expected"), REWRITTEN.values(), ids=REWRITTEN.keys())
def test_rewritten_sentences_are_found(answer: str, sents: list[str], expected: list[str] | None) -> None:
    found = [answer[start:end] for start, end in locate(answer, sents, "x")]
    if expected is None:  # nothing but white space lies outside, and only white space was rewritten
        expected = found
        assert "".join("".join(found).split()) == "".join(answer.split()) == "".join("".join(sents).split())
        assert len(found) == len(sents)
    assert found == expected


UNPLACED = {
    "not there": ("One. Two.", ["One.", "Three."], r"^x\[1\]: expected a sentence of the answer .*got 'Three\.'$"),
    "other word": ("One. Two.", ["One!"], r"^x\[0\]: .* got 'One!'$"),
    "out of order": ("One. Two.", ["Two.", "One."], r"^x\[1\]: .* got 'One\.'$"),
    "twice": ("One.", ["One.", "One."], r"^x\[1\]: .* got 'One\.'$"),
    "empty": ("One.", ["  "], r"^x\[0\]: .* got '  '$"),
    "several places": ("One. Two. Six. Two.", ["Two."], r"^x\[0\]: expected a sentence that stands in one place only"),
    "inside a word too": ("In a casino. no.", ["no."], r"^x\[0\]: expected a sentence that stands in one place only"),
}


@pytest.mark.parametrize(("answer", "sents", "message"), UNPLACED.values(), ids=UNPLACED.keys())
def test_what_cannot_be_placed_is_refused_by_name(answer: str, sents: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        locate(answer, sents, "x")


@given(st.lists(st.text("aB3.,中", min_size=1, max_size=6), min_size=1, max_size=6), st.randoms())
def test_white_space_is_all_that_may_differ(words: list[str], random: Any) -> None:
    answer, spans = "", []
    for word in words:
        spans.append((len(answer), len(answer) + len(word)))
        answer += word + random.choice(["", " ", "\n\n"])
    rewritten = ["".join(c + random.choice(["", " "]) for c in word) for word in words]
    assert locate(answer, rewritten, "x") == spans


def given_item(**changes: Any) -> dict[str, Any]:
    def said(content: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": content}]

    return {
        "prompt": [{"role": "user", "content": "Where?"}],
        "chosen": said("It is 3.5 km. Far."),
        "chosen_item": {"sents": ["It is 3. 5 km.", "Far."], "type": ["no_hallucination", "hallucination"]},
        "rejected": said("Here. There. Gone. Why?"),
        "rejected_item": {
            "sents": ["Here.", "There.", "Gone.", "Why?"],
            "type": ["ok", "contradictory", "unverifiable", "nofact"],
        },
        **changes,
    }


def test_their_types_become_our_labels() -> None:
    preference = authors.read(given_item(), "data.jsonl:7")
    assert (preference.question_id, preference.topic, preference.prompt) == ("data.jsonl:7",) * 2 + (
        ({"role": "user", "content": "Where?"},),
    )
    assert preference.chosen.sentences == (Sentence(0, 13, "no_hallucination"), Sentence(14, 18, "contradictory"))
    labels = [sentence.label for sentence in preference.rejected.sentences or ()]
    assert labels == ["no_hallucination", "contradictory", "unverifiable", "no_fact"]


@pytest.mark.parametrize(
    ("side", "masked"), [("chosen", authors.WRONG), ("rejected", authors.RIGHT)], ids=["chosen", "rejected"]
)
def test_our_labels_become_the_types_that_mask_the_same_sentences(side: str, masked: str) -> None:
    """The authors' loss leaves out WRONG in chosen answers and RIGHT in rejected ones."""
    from maskdpo_ray.pairing.masks import MASK_DPO

    answer = Answer("abcde", tuple(Sentence(i, i + 1, label) for i, label in enumerate(LABELS)))
    types = authors.to_json(Preference("q", "t", PROMPT, answer, answer))[f"{side}_item"]["type"]
    weights = getattr(MASK_DPO, side)
    assert [name == masked for name in types] == [weights[label] == 0 for label in LABELS]


OURS = [{"start": 0, "end": 13, "label": "no_fact"}, {"start": 14, "end": 18, "label": "unverifiable"}]
REFUSED = {
    "missing": ({"chosen_item": None}, "field 'chosen_item': expected an object, got NoneType None"),
    "types": ({"chosen_item": {"sents": ["Far."], "type": []}}, "chosen_item: expected one type per sentence, got 0"),
    "type": ({"chosen_item": {"sents": ["Far."], "type": ["bad"]}}, "chosen_item.type[0]: expected one of no_fact"),
    "sentence": ({"chosen_item": {"sents": ["Fat."], "type": ["ok"]}}, "chosen_item.sents[0]: expected a sentence"),
    "field": ({"chosen_item": {"sents": [], "type": [], "x": 1}}, "field 'chosen_item': unknown field 'x'"),
    "two answers": ({"chosen": given_item()["chosen"] * 2}, "chosen: expected one message, the assistant's, got"),
    "no question": ({"prompt": given_item()["chosen"]}, "prompt: expected the user's message last, got 'assistant'"),
    "labels of ours that differ": ({"chosen_sentences": OURS}, "chosen_item: expected the sentences and types of"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_items_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        authors.read(given_item(**changes), "data.jsonl:7")
    assert str(caught.value).startswith("data.jsonl:7: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_of_ours_win_when_they_say_the_same() -> None:
    sents = {"sents": ["It is 3.5 km.", "Far."], "type": ["no_hallucination", "hallucination"]}
    preference = authors.read(given_item(chosen_item=sents, chosen_sentences=OURS), "x")
    assert [sentence.label for sentence in preference.chosen.sentences or ()] == ["no_fact", "unverifiable"]
