"""Places of the lines of a judge's reply in the sentence that it was told to cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.annotation.llm.claims import locate


@pytest.mark.parametrize(
    ("sentence", "reply", "expected"),
    [
        ("Its capital is Kigali.", "Its capital is Kigali.", ["Its capital is Kigali."]),
        (
            "Its capital is Kigali, and its currency (the dollar) is weak.",
            "- its capital is kigali\n\n-   its currency\n- “the dollar”\n- is weak",
            ["Its capital is Kigali,", "and its currency", "(the dollar)", "is weak."],
        ),
        (
            "1. **Rwanda** is in Asia; it borders Uganda",
            "1. Rwanda is in Asia\n2. it borders Uganda",
            ["1. **Rwanda** is in Asia;", "it borders Uganda"],
        ),
        (
            "3.5 million live there, 2 of 3 in towns.",
            "1) 3. 5 million live there\n2) 2 of 3 in towns",
            ["3.5 million live there,", "2 of 3 in towns."],
        ),
        ("It is. It is.", "It is.\nIt is.", ["It is.", "It is."]),
        ("It is so, and so is it.", "It is so", ["It is so, and so is it."]),
        (
            "In short, it is big, really, and old, they say.",
            "it is big\nold",
            ["In short, it is big,", "really, and old, they say."],
        ),
        (
            "卢旺达的首都是基加利，并且货币是美元。",
            "一、卢旺达的首都是基加利。\n二、货币 是 美元",
            ["卢旺达的首都是基加利，", "并且货币是美元。"],
        ),
        (
            "它在２００５年有12座城市，它很大。",
            "（1）它在2005年有１２座城市\n（2）它很大",
            ["它在２００５年有12座城市，", "它很大。"],
        ),
        ("🦒 …", "", ["🦒 …"]),
        # What is not a copy.
        ("Its capital is Kigali.", "", None),
        ("Its capital is Kigali.", " \n--\n", None),
        ("Its capital is Kigali.", "Rwanda's capital is Kigali.", None),
        ("Its capital is Kigali.", "Here are the parts:\nIts capital is Kigali.", None),
        ("Its capital is Kigali and it is big.", "it is big\nIts capital is Kigali", None),
        ("Its capital is Kigali and it is big.", "Its capital is Kigali and it is big.\nit is big.", None),
        ("Its capital is Kigali.", "Its cap\nital is Kigali.", None),
        ("Its capital is Kigali.", "Its capital\n1. ", None),
        ("货币是美元。", "货币是卢布。", None),
    ],
)
def test_by_hand(sentence: str, reply: str, expected: list[str] | None) -> None:
    found = locate(sentence, reply)
    assert (found and [sentence[start:end] for start, end in found]) == expected


def refuse_gaps(sentence: str, spans: list[tuple[int, int]]) -> None:
    """Spans are in order, don't overlap, are not blank, and leave out white space only."""
    assert spans[0][0] == 0
    at = 0
    for start, end in spans:
        assert at <= start < end <= len(sentence)
        assert sentence[start:end].strip()
        assert not sentence[at:start].strip()
        at = end
    assert not sentence[at:].strip()


WORDS = st.sampled_from(["Kigali", "its", "capital", "3", "5", "Île", "Straße", "首", "都", "是", "７", "x"])
GAPS = st.sampled_from([" ", ", ", " (", ") ", "; ", " - ", "\n", "，", "“", "*", "'"])
NOISE = st.sampled_from([" ", "  ", "\t", " \u3000", "-"])
MARKS = st.sampled_from(["", "- ", "* ", "1. ", "2) ", "（1）", "b. ", "二、", "• 12: "])
ENDS = st.sampled_from(["", " ", ".", "。", " ;", "”"])


@given(st.data())
def test_any_cut_between_words_is_found(data: st.DataObject) -> None:
    words = data.draw(st.lists(WORDS, min_size=1, max_size=12))
    sentence = words[0] + "".join(data.draw(GAPS) + word for word in words[1:]) + data.draw(ENDS)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(words)))) - {len(words)})
    parts = [words[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(words)], strict=True)]
    lines = []
    for part in parts:
        copied = part[0] + "".join(data.draw(NOISE) + word for word in part[1:])
        lines.append(data.draw(MARKS) + data.draw(st.sampled_from([copied, copied.upper()])) + data.draw(ENDS))
    spans = locate(sentence, "\n".join(lines))
    assert spans is not None
    refuse_gaps(sentence, spans)
    starts = [start for start, _ in spans]
    at, expected = 0, []
    for word in words:  # where each word stands
        at = sentence.index(word, at)
        expected.append(at)
        at += len(word)
    held = [[i for i, place in enumerate(expected) if start <= place < end] for start, end in spans]
    assert len(starts) == len(parts)
    assert [[words[i] for i in indices] for indices in held] == parts


@given(st.data())
def test_whatever_the_reply_spans_hold_the_whole_sentence(data: st.DataObject) -> None:
    sentence = data.draw(st.text(min_size=1).filter(str.strip))
    places = st.integers(0, len(sentence))
    slices = st.tuples(places, places).map(lambda cut: sentence[min(cut) : max(cut)])
    reply = "\n".join(data.draw(st.lists(slices | st.text(max_size=3), max_size=5)))
    spans = locate(sentence, reply)
    if spans is not None:
        refuse_gaps(sentence, spans)
