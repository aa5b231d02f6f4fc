"""Cutting documents: nothing is lost, every passage fits, sentences stay whole where they can."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.annotation import passages, sentences

LINE = "First one. Second one. Third one is longer. Fourth."
words = st.text("abC1 .。国\n", max_size=60)
documents = st.lists(words, max_size=8).map(". ".join)


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        (LINE, 100, [LINE]),
        (LINE, 32, ["First one. Second one.", "Second one. Third one is longer.", "Third one is longer. Fourth."]),
        (LINE, 31, ["First one. Second one.", "Third one is longer. Fourth."]),
        ("One two three four.", 9, ["One two", "three", "four."]),
        ("abcdefgh", 3, ["ab", "cd", "ef", "gh"]),
        ("", 3, []),
        (" \n", 3, []),
    ],
)
def test_by_hand(text: str, size: int, expected: list[str]) -> None:
    assert [text[a:b] for a, b in passages.cut(text, "en", lambda part: len(part) <= size)] == expected


@given(documents, st.integers(1, 50))
def test_all_is_read_and_all_fits(text: str, size: int) -> None:
    def fits(part: str) -> bool:
        return len(part) <= size

    cut = passages.cut(text, "en", fits)
    assert all(fits(text[a:b]) for a, b in cut)
    assert cut == sorted(cut) and len({b for _, b in cut}) == len(cut), "each passage reads on"
    covered = {at for a, b in cut for at in range(a, b)}
    assert all(at in covered for at, character in enumerate(text) if not character.isspace())
    for start, end in sentences.split(text, "en"):
        if fits(text[start:end]):
            assert any(a <= start and end <= b for a, b in cut), "a sentence that fits is in one passage whole"
