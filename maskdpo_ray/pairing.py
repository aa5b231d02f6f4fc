"""A question's labelled answers -> its pair, kept only if the policy can learn from it under the config's mask."""

from __future__ import annotations

from typing import Any

from maskdpo_ray import batching
from maskdpo_ray.config import Config
from maskdpo_ray.errors import MaskError
from maskdpo_ray.masking import MaskPolicy
from maskdpo_ray.pairs import STRATEGIES, DropReason, scored
from maskdpo_ray.records import PreferencePair
from maskdpo_ray.stages import Labelled


def pair_of(item: Labelled, config: Config, tokenizer: Any) -> PreferencePair | DropReason:
    """The pair that `pairs.strategy` makes, or why there is none."""
    answers = [scored(r, a) for r, a in zip(item.rollouts, item.annotations, strict=True)]
    outcome = STRATEGIES[config.pairs.strategy](item.question, item.prompt_token_ids, answers)
    if isinstance(outcome, DropReason):
        return outcome
    try:
        example = batching.make_example(outcome, tokenizer, MaskPolicy.from_config(config.mask.policy), config.mask.eos)
    except MaskError:
        return DropReason.NOT_LOCATED
    return outcome if batching.teaches(example) else DropReason.NOTHING_TO_LEARN
