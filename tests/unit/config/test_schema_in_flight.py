"""How many questions are under way where the config leaves that to us."""

from __future__ import annotations

import dataclasses

import pytest

from maskdpo_ray.config.schema import AnnotationConfig, Config, EvalConfig, ModelConfig, RolloutConfig


@pytest.mark.parametrize(
    "engines, samples, expected", [(1, 8, 64), (4, 32, 64), (4, 8, 160), (256, 8, 10240), (1, 5, 64), (8, 3, 854)]
)
def test_questions_in_flight_fill_every_engine(engines: int, samples: int, expected: int) -> None:
    """1.25 x engines x max_num_seqs (256) / answers to a question, 64 at least."""
    rollout = RolloutConfig(num_engines=engines)
    model = ModelConfig("m")
    assert Config(model=model, rollout=rollout).in_flight(samples) == expected
    assert Config(model=model, rollout=dataclasses.replace(rollout, max_in_flight=3)).in_flight(samples) == 3


@pytest.mark.parametrize("kind", [AnnotationConfig, EvalConfig])
def test_questions_in_flight_for_each_judge(kind: type) -> None:
    assert (kind().in_flight, kind(num_actors=3).in_flight) == (64, 192)
    assert kind(num_actors=3, max_in_flight=2).in_flight == 2
