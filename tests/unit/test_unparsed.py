"""Too many sentences without a readable label stop a run."""

from __future__ import annotations

import pytest

from maskdpo_ray.errors import AnnotatorError
from maskdpo_ray.records import NO_FACT, UNPARSED, Annotation, Sentence
from maskdpo_ray.unparsed import FEWEST, UnparsedShare


def answer(name: str, *labels: str) -> Annotation:
    return Annotation(
        name, 1, tuple(Sentence(i, i + 1, label, evidence="fact: 'Pardon?'") for i, label in enumerate(labels))
    )


def test_the_share_is_of_all_sentences_so_far() -> None:
    share = UnparsedShare(0.25)
    share.count([answer("a", *[UNPARSED] * (FEWEST // 2 - 1))])  # too few to tell
    share.count([answer("b", *[NO_FACT] * (3 * FEWEST // 2)), answer("c", UNPARSED)])  # a quarter: just borne
    with pytest.raises(AnnotatorError) as caught:
        share.count([answer("d", NO_FACT, UNPARSED)])
    assert str(caught.value) == (
        "annotator: expected at most 25% of the sentences unparsed (annotation.max_unparsed), got 26 of 102; "
        "the last one: question 'd', answer 1: fact: 'Pardon?'"
    )


@pytest.mark.parametrize("highest", [0.0, 1.0])
def test_none_and_all(highest: float) -> None:
    share = UnparsedShare(highest)
    share.count([answer("a", *[NO_FACT] * FEWEST)])
    if highest:
        share.count([answer("b", *[UNPARSED] * 1000)])
    else:
        with pytest.raises(AnnotatorError, match="got 1 of 51"):
            share.count([answer("b", UNPARSED)])
