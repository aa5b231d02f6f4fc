from __future__ import annotations

from labelled_answers import answer, only, samples, selected

from maskdpo_ray.records import CONTRADICTORY as C
from maskdpo_ray.records import NO_FACT as N
from maskdpo_ray.records import NO_HALLUCINATION as H
from maskdpo_ray.records import DropReason


def test_each_answer_alone() -> None:
    items = [answer(0, H), answer(1, H, C), answer(2, C), answer(3, N)]
    found = selected(items, strategy="unpaired")
    assert samples(found) == [(None, 1), (None, 2), (0, None)]
    assert found.drops == (DropReason.TOO_FEW_FACTS,)
    found = selected(items, strategy="unpaired", options={"threshold": 0.5})
    assert samples(found) == [(None, 2), (0, None), (1, None)]


def test_one_answer_is_enough() -> None:
    (pair,) = selected([answer(0, H)], strategy="unpaired").pairs
    assert pair.chosen is not None and pair.rejected is None
    assert only(selected([answer(0, N)], strategy="unpaired", options={"threshold": 0.0})) is DropReason.TOO_FEW_FACTS
