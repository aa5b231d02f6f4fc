"""Pairs -> training examples with token weights -> global batches -> each rank's micro-batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from maskdpo_ray.pairing.masks import MaskPolicy, token_weights
from maskdpo_ray.records import PreferencePair, ScoredAnswer

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A preference pair as token ids, with one weight per response token (Mask-DPO eq. 5's I(a_i))."""

    pair_id: str
    prompt_token_ids: tuple[int, ...]
    chosen_token_ids: tuple[int, ...]
    rejected_token_ids: tuple[int, ...]
    chosen_weights: tuple[float, ...]
    rejected_weights: tuple[float, ...]

    def input_lengths(self, cut_tails: bool) -> tuple[int, int]:
        """Tokens of chosen and rejected answer, prompt included, that a model has to read.

        With `cut_tails`, all before the last one that has weight: what comes after has no target behind it. 0 for an
        answer without weight.
        """
        sides = (self.chosen_token_ids, self.chosen_weights), (self.rejected_token_ids, self.rejected_weights)
        lengths = []
        for token_ids, weights in sides:
            last = next((i for i in reversed(range(len(weights))) if weights[i]), None)
            used = len(token_ids) if not cut_tails else last
            lengths.append(0 if used is None else len(self.prompt_token_ids) + used)
        return lengths[0], lengths[1]


def make_example(pair: PreferencePair, tokenizer: Any, policy: MaskPolicy, eos: str) -> TrainingExample:
    """Weigh a pair's tokens under a mask policy.

    `eos` is a rule of `token_weights`, or "chosen": "keep" in the chosen and "drop" in the rejected answer.

    Raises MaskError when an answer's ids don't spell its text or a sentence can't be located.
    """

    def weigh(answer: ScoredAnswer, side: str) -> tuple[float, ...]:
        spans = [(sentence.start, sentence.end) for sentence in answer.annotation.sentences]
        weights = policy.span_weights(answer.annotation, side)
        rule = {"chosen": "keep", "rejected": "drop"}[side] if eos == "chosen" else eos
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


def num_weighted(example: TrainingExample) -> int:
    """Tokens with weight, of both sides."""
    return sum(weight > 0 for weights in (example.chosen_weights, example.rejected_weights) for weight in weights)


def epoch_batches(num_examples: int, batch_size: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Indices of each global batch, in a new seeded order every epoch.

    The last batch of an epoch may be smaller: no pair is dropped or seen twice in an epoch.
    """
    for epoch in range(epochs):
        order = list(range(num_examples))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        yield from chunks(order, batch_size)


def num_steps(num_examples: int, batch_size: int, epochs: int) -> int:
    """Optimizer steps that `epoch_batches` will give."""
    return epochs * -(-num_examples // batch_size)


def shard(batch: Sequence[Item], rank: int, num_ranks: int) -> list[Item]:
    """A rank's share of a global batch; shares differ by one at most and may be empty."""
    return list(batch[rank::num_ranks])


def chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """`items` in runs of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
