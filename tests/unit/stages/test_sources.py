"""Pairs and drops that a source makes of its replies."""

from __future__ import annotations

from typing import Any, cast

from maskdpo_ray.config.schema import Config, ModelConfig
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_HALLUCINATION,
    Annotation,
    DropReason,
    Labelled,
    Question,
    Rollout,
    Sentence,
)
from maskdpo_ray.stages.sources import AtomSource

QUESTION = Question("q", "Rwanda", ({"role": "user", "content": "True or false?"},), answer="True")


def drops(*replies: tuple[str, str]) -> list[DropReason]:
    """Why replies, each a label and a finish reason, give no pair."""
    config = Config(model=ModelConfig(model_name_or_path="m"))
    source = AtomSource(config, {}, *(cast(Any, None) for _ in range(3)))
    rollouts = tuple(Rollout("q", i, (1, 2), "True", finish, 0) for i, (_, finish) in enumerate(replies))
    spans = [(Sentence(0, 4, label),) for label, _ in replies]
    labels = tuple(Annotation("q", i, each) for i, each in enumerate(spans))
    pairs, reasons = source.paired(Labelled(QUESTION, (1,), rollouts, labels), config)
    assert pairs == []
    return reasons


def test_a_reply_that_is_cut_off_tells_what_is_known_and_is_in_no_pair() -> None:
    right, wrong = NO_HALLUCINATION, CONTRADICTORY
    assert drops((right, "length"), (right, "stop")) == [DropReason.KNOWN]
    assert drops((wrong, "length"), (wrong, "length")) == [DropReason.UNKNOWN]
    assert drops((right, "length"), (wrong, "stop")) == [DropReason.TRUNCATED]
    assert drops() == [DropReason.UNPARSED]
