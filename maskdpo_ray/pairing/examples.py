"""A question's labelled answers -> its pair, kept only if the policy can learn from it under the config's mask."""

from __future__ import annotations

from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import MaskError
from maskdpo_ray.pairing.masks import MaskPolicy
from maskdpo_ray.pairs import STRATEGIES, DropReason, scored
from maskdpo_ray.records import PreferencePair
from maskdpo_ray.stages.protocols import Labelled
from maskdpo_ray.training import batches
from maskdpo_ray.training.batches import TrainingExample


def pair_of(item: Labelled, config: Config, tokenizer: Any) -> PreferencePair | DropReason:
    """The pair that `pairs.strategy` makes, or why there is none."""
    outcome = taught_by(item, config, tokenizer)
    return outcome if isinstance(outcome, DropReason) else outcome[0]


def taught_by(item: Labelled, config: Config, tokenizer: Any) -> tuple[PreferencePair, TrainingExample] | DropReason:
    """The pair of `pair_of` with what the policy learns from it, or why there is none."""
    answers = [scored(r, a) for r, a in zip(item.rollouts, item.annotations, strict=True)]
    outcome = STRATEGIES[config.pairs.strategy](item.question, item.prompt_token_ids, answers, config.pairs)
    if isinstance(outcome, DropReason):
        return outcome
    lesson = lesson_of(outcome, config, tokenizer)
    return lesson if isinstance(lesson, DropReason) else (outcome, lesson)


def lesson_of(pair: PreferencePair, config: Config, tokenizer: Any) -> TrainingExample | DropReason:
    """What the policy learns from a pair, or why nothing."""
    if pair.chosen.rollout.text == pair.rejected.rollout.text:
        return DropReason.IDENTICAL_TEXT
    try:
        example = example_of(pair, config, tokenizer)
    except MaskError:
        return DropReason.NOT_LOCATED
    return example if batches.teaches(example) else DropReason.NOTHING_TO_LEARN


def example_of(pair: PreferencePair, config: Config, tokenizer: Any) -> TrainingExample:
    """A pair with the config's token weights. Raises MaskError when they can't be located."""
    return batches.make_example(pair, tokenizer, MaskPolicy.from_config(config.mask.policy), config.mask.eos)
