"""Mask policies: named ones, tables from the config, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config.schema import MaskConfig
from maskdpo_ray.errors import ConfidenceError, ConfigError, MaskError
from maskdpo_ray.pairing.masks import MASK_DPO, VANILLA, MaskPolicy
from maskdpo_ray.records import LABELS, UNPARSED, Annotation, PreferencePair, Rollout, ScoredAnswer, Sentence

ANNOTATION = Annotation("q", 0, tuple(Sentence(i, i + 1, label) for i, label in enumerate(LABELS)))


def test_policies() -> None:
    """LABELS is: no_fact, no_hallucination, contradictory, unverifiable, unparsed."""
    assert MASK_DPO.span_weights(ANNOTATION, "chosen") == [1, 1, 0, 0, 0]
    assert MASK_DPO.span_weights(ANNOTATION, "rejected") == [0, 0, 1, 1, 0]
    assert VANILLA.span_weights(ANNOTATION, "chosen") == [1] * 5
    assert VANILLA.span_weights(ANNOTATION, "rejected") == [1] * 5
    assert MaskPolicy.from_config("mask_dpo") == MASK_DPO and MaskPolicy.from_config("vanilla") == VANILLA
    table = {"chosen": dict.fromkeys(LABELS, 0.5), "rejected": dict.fromkeys(LABELS, 0) | {UNPARSED: 2}}
    assert MaskPolicy.from_config(table).span_weights(ANNOTATION, "chosen") == [0.5] * 5
    assert MaskPolicy.from_config(table).span_weights(ANNOTATION, "rejected") == [0, 0, 0, 0, 2]
    with pytest.raises(ValueError, match="side"):
        MASK_DPO.span_weights(ANNOTATION, "left")
    with pytest.raises(MaskError, match="'wrong'"):
        MASK_DPO.span_weights(Annotation("q", 0, (Sentence(0, 1, "wrong"),)), "chosen")


def test_confidence_multiplies() -> None:
    """Only where there is weight; nowhere does it make up for a label without one."""
    table = {"chosen": dict.fromkeys(LABELS, 0.5), "rejected": dict.fromkeys(LABELS, 1.0)}
    given = Annotation("q", 0, tuple(Sentence(i, i + 1, each, 0.2 * i) for i, each in enumerate(LABELS)))
    found = MaskPolicy.from_config(table, by_confidence=True).span_weights(given, "chosen")
    assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert MaskPolicy.from_config(table).span_weights(given, "chosen") == [0.5] * 5
    soft = MaskPolicy.from_config("mask_dpo", by_confidence=True)
    assert soft != MASK_DPO and soft.span_weights(given, "rejected") == pytest.approx([0, 0, 0.4, 0.6, 0])
    certain = Annotation("q", 0, tuple(Sentence(i, i + 1, each, 1.0) for i, each in enumerate(LABELS)))
    for side in ("chosen", "rejected"):
        assert soft.span_weights(certain, side) == MASK_DPO.span_weights(certain, side)


def test_a_label_without_confidence_has_no_soft_weight() -> None:
    soft = MaskPolicy.from_config("mask_dpo", by_confidence=True)
    unsure = Annotation("q", 0, (Sentence(0, 1, "contradictory"), Sentence(1, 2, "no_fact", 0.9)))
    assert soft.span_weights(unsure, "chosen") == [0, 0.9]
    with pytest.raises(ConfidenceError, match=r"label 'contradictory' of span \(0, 1\): no confidence"):
        soft.span_weights(unsure, "rejected")


def answer(*said: tuple[str, str | None]) -> ScoredAnswer:
    """An answer of one sentence each: (label, kind)."""
    sentences = tuple(Sentence(i, i + 1, label, 0.5, kind=kind) for i, (label, kind) in enumerate(said))
    return ScoredAnswer(Rollout("q", 0, (1,), "x" * 9, "stop", 0), Annotation("q", 0, sentences), 0.5)


def pair(chosen: ScoredAnswer | None, rejected: ScoredAnswer | None) -> PreferencePair:
    return PreferencePair("q", "t", (1,), chosen, rejected, 0)


RIGHT, WRONG = "no_hallucination", "contradictory"


def test_balance() -> None:
    """Currencies, right once and wrong three times, weigh a third; capitals twice right and once wrong keep theirs."""
    capital = answer((RIGHT, "capital"), (RIGHT, "currency"), (WRONG, "neighbour"))
    wrong = answer((WRONG, "currency"), (WRONG, "capital"), (WRONG, None), (RIGHT, "currency"))
    pairs = [
        pair(capital, wrong),
        pair(answer((RIGHT, "capital")), answer((WRONG, "currency"), (WRONG, "lake"))),
        pair(answer((RIGHT, "capital")), answer((WRONG, "currency"))),
    ]
    found = MASK_DPO.balanced(pairs, 1)
    assert found.kinds == pytest.approx({"currency": 1 / 3, "capital": 1, "lake": 0})
    assert found.span_weights(wrong.annotation, "rejected") == pytest.approx([1 / 3, 1, 1, 0])
    assert found.span_weights(capital.annotation, "chosen") == MASK_DPO.span_weights(capital.annotation, "chosen")
    assert MASK_DPO.balanced(pairs, 2).kinds == pytest.approx({"currency": 2 / 3, "capital": 1, "lake": 0})
    soft = replace(MASK_DPO, by_confidence=True).balanced(pairs, 1)
    assert soft.kinds == found.kinds and soft.by_confidence  # 0.5 everywhere
    assert MASK_DPO.balanced([pair(capital, None), pair(None, wrong)], 1).kinds == pytest.approx(
        {"currency": 1, "capital": 1}
    )


def test_balance_counts_no_pair_that_confidence_would_drop() -> None:
    unsure = ScoredAnswer(
        Rollout("q", 0, (1,), "x", "stop", 0), Annotation("q", 0, (Sentence(0, 1, WRONG, kind="currency"),)), 0.0
    )
    soft = replace(MASK_DPO, by_confidence=True)
    assert soft.balanced([pair(answer((RIGHT, "currency")), unsure)], 1).kinds == {}


said = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(["capital", "currency", None])), max_size=5)


@given(st.lists(st.tuples(said, said), min_size=1, max_size=6), st.floats(0.1, 3))
def test_balance_holds_its_bound_and_takes_no_more_than_that(both: list[tuple[Any, Any]], most: float) -> None:
    pairs = [pair(answer(*chosen), answer(*rejected)) for chosen, rejected in both]
    for policy in (MASK_DPO, VANILLA):
        found = policy.balanced(pairs, most)

        def weight(mask: MaskPolicy, side: str, kind: str) -> float:
            sentences = [
                (each, weight)
                for its in pairs
                for annotation in [its.sides()[side].annotation]
                for each, weight in zip(annotation.sentences, mask.span_weights(annotation, side), strict=True)
            ]
            return sum(weight for each, weight in sentences if each.kind == kind)

        for kind in ("capital", "currency"):
            bound, before = most * weight(policy, "chosen", kind), weight(policy, "rejected", kind)
            assert weight(found, "rejected", kind) == pytest.approx(min(before, bound))


ONES = dict.fromkeys(LABELS, 1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dpo", "mask_dpo, vanilla or a table"),
        (None, "mask_dpo, vanilla or a table"),
        ({"chosen": ONES}, "keys chosen and rejected"),
        ({"chosen": ONES, "rejected": ONES, "both": ONES}, "keys chosen and rejected"),
        ({"chosen": ONES, "rejected": 1}, "mask.policy.rejected"),
        ({"chosen": {"no_fact": 1}, "rejected": ONES}, "no weight for 'no_hallucination'"),
        ({"chosen": ONES | {"fine": 1}, "rejected": ONES}, "unknown label 'fine'"),
        ({"chosen": ONES, "rejected": ONES | {"no_fact": -1}}, "mask.policy.rejected.no_fact"),
        ({"chosen": ONES, "rejected": ONES | {"no_fact": "1"}}, "mask.policy.rejected.no_fact"),
        ({"chosen": ONES, "rejected": ONES | {"no_fact": True}}, "mask.policy.rejected.no_fact"),
        ({"chosen": ONES, "rejected": ONES | {"no_fact": math.nan}}, "mask.policy.rejected.no_fact"),
    ],
)
def test_policies_that_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        MaskPolicy.from_config(value)
    assert "\n" not in str(caught.value)


ZEROS = dict.fromkeys(LABELS, 0.0)


@pytest.mark.parametrize(
    ("eos", "chosen", "rejected", "empty"),
    [
        ("drop", ZEROS, ONES, "chosen"),
        ("drop", ONES, ZEROS, "rejected"),
        ("last_sentence", ZEROS, ONES, "chosen"),
        ("chosen", ZEROS, ONES, None),
        ("chosen", ONES, ZEROS, "rejected"),
        ("keep", ZEROS, ZEROS, None),
        ("drop", ZEROS | {"no_fact": 0.1}, ONES, None),
    ],
)
def test_a_side_without_weights_is_refused(eos: Any, chosen: Any, rejected: Any, empty: str | None) -> None:
    """Unless its end-of-sequence token has weight."""
    policy = {"chosen": chosen, "rejected": rejected}
    if empty is None:
        assert MaskConfig(policy, eos).policy == policy
        return
    with pytest.raises(ConfigError) as caught:
        MaskConfig(policy, eos)
    expected = f"mask.policy.{empty}: expected a weight above 0 when mask.eos is {eos} (nothing could be learned), got"
    assert str(caught.value).startswith(expected)
