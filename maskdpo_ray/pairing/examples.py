"""Pairs of labelled answers, and the training examples that they give under the config's mask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import MaskError
from maskdpo_ray.pairing.masks import MaskPolicy, token_weights
from maskdpo_ray.pairing.scoring import mixture, scored
from maskdpo_ray.pairing.strategies import STRATEGIES
from maskdpo_ray.records import DropReason, Labelled, PreferencePair, ScoredAnswer, TrainingExample
from maskdpo_ray.training.example_store import ExampleStore, ExampleWriter


def pair_of(item: Labelled, config: Config, tokenizer: Any) -> PreferencePair | DropReason:
    """The pair that `pairs.strategy` makes, or why there is none."""
    outcome = pair_and_example(item, config, tokenizer)
    return outcome if isinstance(outcome, DropReason) else outcome[0]


def pair_and_example(
    item: Labelled, config: Config, tokenizer: Any
) -> tuple[PreferencePair, TrainingExample] | DropReason:
    """The pair of `pair_of` with its training example, or why there is none."""
    answers = [scored(r, a) for r, a in zip(item.rollouts, item.annotations, strict=True)]
    pair = STRATEGIES[config.pairs.strategy](item.question, item.prompt_token_ids, answers, config.pairs)
    if isinstance(pair, DropReason):
        return pair
    example = usable_example(pair, config, tokenizer)
    return example if isinstance(example, DropReason) else (pair, example)


def usable_example(pair: PreferencePair, config: Config, tokenizer: Any) -> TrainingExample | DropReason:
    """The training example of a pair, or why the policy can't learn from it."""
    if pair.chosen.rollout.text == pair.rejected.rollout.text:
        return DropReason.IDENTICAL_TEXT
    try:
        example = example_of(pair, config, tokenizer)
    except MaskError:
        return DropReason.NOT_LOCATED
    return example if teaches(example) else DropReason.NOTHING_TO_LEARN


def example_of(pair: PreferencePair, config: Config, tokenizer: Any) -> TrainingExample:
    """A pair with the config's token weights. Raises MaskError when they can't be located."""
    return make_example(pair, tokenizer, MaskPolicy.from_config(config.mask.policy), config.mask.eos)


def make_example(pair: PreferencePair, tokenizer: Any, policy: MaskPolicy, eos: str) -> TrainingExample:
    """Weigh a pair's tokens under a mask policy.

    `eos` is a rule of `token_weights`, or "chosen": "keep" in the chosen and "drop" in the rejected answer.

    Raises MaskError when an answer's ids don't spell its text or a sentence can't be located.
    """

    def weigh(answer: ScoredAnswer, side: Literal["chosen", "rejected"]) -> tuple[float, ...]:
        spans = [(sentence.start, sentence.end) for sentence in answer.annotation.sentences]
        weights = policy.span_weights(answer.annotation, side)
        rule: Any = {"chosen": "keep", "rejected": "drop"}[side] if eos == "chosen" else eos
        rollout = answer.rollout
        blocks = [(block.start, block.end) for block in rollout.blocks]
        ended = rollout.finish_reason == "stop"
        return tuple(token_weights(tokenizer, rollout.token_ids, rollout.text, spans, weights, rule, blocks, ended))

    return TrainingExample(
        pair_id=pair.question_id,
        prompt_token_ids=pair.prompt_token_ids,
        chosen_token_ids=pair.chosen.rollout.token_ids,
        rejected_token_ids=pair.rejected.rollout.token_ids,
        chosen_weights=weigh(pair.chosen, "chosen"),
        rejected_weights=weigh(pair.rejected, "rejected"),
    )


def teaches(example: TrainingExample) -> bool:
    """Whether both sides have a token to learn from; else the pair is dropped and counted."""
    return any(example.chosen_weights) and any(example.rejected_weights)


class CollectedExamples:
    """The examples of an iteration on their way into a store, in any order, and the mixture of their pairs."""

    def __init__(self, folder: Path) -> None:
        """The store is to lie in `folder`. Raises RunFolderError when that can't be written."""
        self._writer = ExampleWriter(folder)
        self._mixture: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._writer)

    def add(self, pair: PreferencePair, example: TrainingExample) -> None:
        """Store the example of `pair`. Raises RunFolderError when the disk is full."""
        self._writer.add(example)
        self._mixture.update(mixture([pair]))

    def mixture(self) -> dict[str, float]:
        """`scoring.mixture` of all pairs."""
        return {name: self._mixture[name] / max(len(self), 1) for name in mixture([])}

    def finish(self) -> ExampleStore:
        """The store, sorted by the examples' ids."""
        return self._writer.finish(by_id=True)
