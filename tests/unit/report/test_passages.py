"""Labelled text as passages: nothing of it is lost, and nothing in it steers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.records import LABELS, Annotation, Block, Rollout, Sentence
from maskdpo_ray.report.passages import MOST_CHARACTERS, passages, visible


@given(
    st.text(max_size=80),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20), st.sampled_from(LABELS)), max_size=6),
)
def test_passages_are_the_text(text: str, spans: list[tuple[int, int, str]]) -> None:
    """Whatever the labels of another program say, overlaps and ends beyond the text among them."""
    sentences = tuple(Sentence(start, start + size, label) for start, size, label in spans)
    found = passages(Rollout("q", 0, (), text, "stop", 0), Annotation("q", 0, sentences))
    assert "".join(passage.text for passage in found) == visible(text)
    assert {passage.label for passage in found} <= {None, *(label for _, _, label in spans)}


def test_each_passage_has_the_label_of_its_sentence() -> None:
    text = "<think>hm</think>A is b. C is d."
    sentences = (
        Sentence(17, 24, "contradictory", confidence=0.75, evidence="A is e", kind="capital"),
        Sentence(25, 32, "no_fact"),
    )
    rollout = Rollout("q", 0, (), text, "stop", 0, (Block(0, 17),))
    found = passages(rollout, Annotation("q", 0, sentences))
    assert [(each.text, each.label, each.is_thinking) for each in found] == [
        ("<think>hm</think>", None, True),
        ("A is b.", "contradictory", False),
        (" ", None, False),
        ("C is d.", "no_fact", False),
    ]
    assert found[1].title == "contradictory · capital · confidence 0.75: A is e"
    assert found[3].title == "no fact"


def test_long_answer_is_cut_and_says_so() -> None:
    text = "word " * 10_000
    found = passages(Rollout("q", 0, (), text, "stop", 0), Annotation("q", 0, (Sentence(0, 49_999, "no_fact"),)))
    shown = "".join(each.text for each in found)
    assert shown.startswith(text[:MOST_CHARACTERS]) and len(shown) < MOST_CHARACTERS + 100
    assert "characters" in shown[MOST_CHARACTERS:]


@given(st.text())
def test_visible_text_steers_nothing(text: str) -> None:
    shown = visible(text)
    kept = "\n\t\u200c\u200d"
    steering = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    assert not [each for each in shown if unicodedata.category(each) in steering and each not in kept]
    shown.encode()  # no lone surrogate
    if all(unicodedata.category(each) not in steering for each in text):
        assert shown == text


@pytest.mark.parametrize("text", ["परीक्षा", "می‌خواهم", "👩‍👩‍👧‍👦 ok", "العربية", "日本語", "naïve – “quoted”"])
def test_writing_of_people_is_left_alone(text: str) -> None:
    assert visible(text) == text
