"""An iteration's examples as global batches, and a rank's share of a batch as micro-batches.

Examples that begin alike go through the model together, because a prefix tree computes what they share once; and as
many of them as the limits on examples and tokens allow, because a pass of few tokens uses the processor badly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from maskdpo_ray.config.schema import SavingsConfig, TrainConfig
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training.prefix_tree import common_length

Item = TypeVar("Item")


def epoch_batches(num_examples: int, batch_size: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Indices of each global batch, in a new seeded order every epoch.

    The last batch of an epoch may be smaller: no example is dropped or seen twice in an epoch.
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


def response_rows(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(place of the example, place of the response in it) of each row of a micro-batch.

    First the first response of every example, then the second of those that have one, and so on; `counts` are the
    examples' numbers of responses.
    """
    places = range(max(counts, default=0))
    return [(example, place) for place in places for example, count in enumerate(counts) if place < count]


def micro_batches(
    batch: Sequence[TrainingExample], rank: int, num_ranks: int, train: TrainConfig, savings: SavingsConfig
) -> list[list[int]]:
    """A rank's share of a global batch as micro-batches of places in `batch`.

    The ranks' shares are disjoint and hold every place; they differ by one example at most, and may be empty.
    """
    places = list(range(len(batch)))
    if savings.group_pairs:
        # In this order an example shares more with its neighbours than with any other.
        places.sort(key=lambda place: (batch[place].prompt_token_ids, batch[place].responses[0].token_ids))
        start, end = (-(-len(places) * bound // num_ranks) for bound in (rank, rank + 1))
        share = places[start:end]
    else:
        share = shard(places, rank, num_ranks)
    return _filled(batch, share, train, savings)


def _filled(
    batch: Sequence[TrainingExample], places: Sequence[int], train: TrainConfig, savings: SavingsConfig
) -> list[list[int]]:
    """Runs of `places`, each as long as the limits allow; one example at least."""
    runs: list[list[int]] = []
    size = 0
    for place in places:
        fits = bool(runs) and len(runs[-1]) < train.micro_batch_size
        if fits:
            size = _joined(batch, runs[-1], place, size, savings)
        if fits and size <= train.max_tokens_per_gpu:
            runs[-1].append(place)
        else:
            runs.append([place])
            size = num_tokens(batch[place], savings)
    return runs


def _joined(batch: Sequence[TrainingExample], run: Sequence[int], place: int, size: int, savings: SavingsConfig) -> int:
    """Tokens that the model computes for a run of `size` of them with another example; of a tree, at most."""
    if savings.prefix_tree:
        one, other = (np.asarray(batch[each].prompt_token_ids) for each in (run[-1], place))
        return size + num_tokens(batch[place], savings) - common_length(one, other)
    lengths = [length for each in (*run, place) for length in batch[each].input_lengths(savings.cut_tails)]
    return len(lengths) * max(lengths)


def num_tokens(example: TrainingExample, savings: SavingsConfig) -> int:
    """Tokens that the model computes for one example alone, padding included."""
    lengths = example.input_lengths(savings.cut_tails)
    if not savings.prefix_tree:
        return len(lengths) * max(lengths)
    prompt, responses = example.prompt_token_ids, example.responses
    inputs = [(*prompt, *response.token_ids)[:length] for response, length in zip(responses, lengths, strict=True)]
    inputs.sort()  # so that each shares with the tree what it shares with the one before it
    arrays = [np.asarray(ids) for ids in inputs]
    return sum(lengths) - sum(common_length(one, other) for one, other in pairwise(arrays))
