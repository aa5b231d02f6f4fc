"""The bounds of `maskdpo_ray.config.schema` are those of the installed vLLM and Ray."""

from __future__ import annotations

import pytest

# Just inside our bounds: accepted unchanged. Just outside: refused, or replaced by another value.
SAMPLING = {
    "n": ((2, 16384), (16385,)),
    "temperature": ((0.01, 2.0), (0.009, 2.01)),
    "top_k": ((1, -1, 2**31 - 1), ()),
    "top_p": ((1e-6, 1.0), (0.0, 1.001)),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling(name: str) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    within, without = SAMPLING[name]
    for value in within:
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in without:
        try:
            taken = getattr(SamplingParams(**{name: value}), name)
        except VLLMValidationError:
            continue
        assert taken != value


def test_shares() -> None:
    from ray._common.ray_option_utils import actor_options

    for taken in (0, 1e-4, 1.5):
        actor_options["num_cpus"].validate("num_cpus", taken)
    with pytest.raises(ValueError, match="precision"):
        actor_options["num_cpus"].validate("num_cpus", 9e-5)
