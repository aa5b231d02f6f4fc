"""Mask policies: named ones, tables from the config, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from maskdpo_ray.config.schema import MaskConfig
from maskdpo_ray.errors import ConfidenceError, ConfigError, MaskError
from maskdpo_ray.pairing.masks import MASK_DPO, VANILLA, MaskPolicy
from maskdpo_ray.records import LABELS, UNPARSED, Annotation, Sentence

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
