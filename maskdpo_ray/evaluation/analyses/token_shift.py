"""Token shift: where a trained policy's answers depart from what the start would have said (APEFT, figure 3).

Each token of an answer has a rank under the trained policy and one under the start, in the same context. Their
difference is APEFT's delta, and a token is shifted when it is above 0. The paper counts "various levels" of shifted
tokens, which it doesn't define. These are those of Lin et al. 2023 (arXiv:2312.01552), whose method it follows: in a
greedy answer, where each token has rank 1 under the policy, rank 1 under the start is unshifted, 2 and 3 are marginal,
and above that is shifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.evaluation.intervals import Draws, Ratios, TopicSums, interval
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import CHOSEN, Record, Response, Sentence, TrainingExample

BINS = 5
"""Parts of a sentence by relative position: the sentences of our domains have about seven tokens."""
_BATCH = 8
"""Answers of a pass: bounds the logits, [tokens, vocabulary]."""
_MARGINAL = 2
"""Largest delta that is marginal: rank 3 of a token that is the policy's first."""
_RATIOS = Ratios(
    ("tokens", "marginal", "shifted", "any"),
    {"marginal": ("marginal", "tokens"), "shifted": ("shifted", "tokens"), "any": ("any", "tokens")},
)


class Share(Record):
    """Share of tokens."""

    share: float
    low: float | None
    """Ends of its 95% interval, bootstrap over topics; None with one topic."""
    high: float | None


class Bin(Record):
    """Tokens of one part of a sentence."""

    tokens: int
    marginal: float
    """Share of them with a delta of 1 or 2."""
    shifted: float
    """Share of them with a larger delta."""


class SplitShift(Record):
    """Shift of the answers to the questions of a split."""

    log: str
    """Log of the answers: "heldout-greedy", or "heldout", the first sampled answer to each question."""
    answers: int
    topics: int
    tokens: int
    first: float
    """Share of the tokens that are the policy's likeliest: all of a greedy answer, but for rounding."""
    levels: dict[str, Share]
    """marginal, shifted, and any of both."""
    by_position: tuple[Bin, ...]
    """`BINS` parts of a sentence, in order."""
    left_out: int
    """Answers whose token ids don't spell their text, so that nobody knows where their sentences begin."""


class TokenShift(Record):
    """Shift of a policy's answers."""

    run: str
    after: int
    """Version of the trained policy."""
    bootstrap_samples: int
    splits: dict[str, SplitShift]


@dataclass(frozen=True)
class Answer:
    """An answer in its context."""

    topic: str
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    positions: Sequence[float]
    """Relative position of each token in its sentence, 0 to 1."""


def positions(sentences: Sequence[Sentence], spans: Sequence[tuple[int, int]]) -> list[float]:
    """Relative position of each token in its sentence: (place + 1/2) / number of its tokens.

    A token between two sentences belongs to the one before, the end of turn to the last: an answer that ends early ends
    late in a sentence. An answer without sentences counts as one.

    Args:
        spans: characters of each token, [start, end).
    """
    starts = [sentence.start for sentence in sentences][1:]
    owners = np.searchsorted(starts, [end for _, end in spans], side="left")
    places = np.arange(len(owners)) - np.searchsorted(owners, owners, side="left")
    sizes = np.bincount(owners, minlength=1)[owners] if len(owners) else owners
    return [float(each) for each in (places + 0.5) / sizes] if len(owners) else []


class Ranker:
    """A causal language model that ranks given tokens, in float32 on the CPU."""

    def __init__(self, folder: Path, option: str) -> None:
        """Load the model. Raises ConfigError naming `option` when there is no folder, ModelError."""
        from transformers import AutoModelForCausalLM

        from maskdpo_ray.training import tree_attention, ways

        model_folder.describe_model(str(folder), option)
        model_folder.refuse_no_weights(folder, option)
        self._network = model_folder.load_network(AutoModelForCausalLM, folder, "a causal language model")
        config = self._network.config
        way = ways.of_config(config, min(ways.contexts(config).values(), default=2**31))
        self._savings = way.savings(SavingsConfig())
        if self._savings.prefix_tree:
            tree_attention.install(self._network)
        elif way.is_eager:
            tree_attention.use_rows(self._network, tree_attention.row_ways(self._network)[-1])

    def ranks(self, answers: Sequence[Answer]) -> list[NDArray[np.int64]]:
        """Rank of each token of the answers in its context, 1 for the likeliest, [tokens] each.

        Answers that follow each other share a pass, as in training: what their prompts share is computed once.
        """
        import torch

        from maskdpo_ray.training.forward import Pass

        found: list[NDArray[np.int64]] = []
        for start in range(0, len(answers), _BATCH):
            batch = answers[start : start + _BATCH]
            with torch.inference_mode():
                forward = Pass(self._network, [_example(each) for each in batch], savings=self._savings)
                ranks = forward.ranks(forward.logits(self._network)).numpy()
            found += [row[: len(each.token_ids)] for row, each in zip(ranks, batch, strict=True)]
        return found


def _example(answer: Answer) -> TrainingExample:
    """The answer as an example all of whose tokens count."""
    response = Response(CHOSEN, tuple(answer.token_ids), (1.0,) * len(answer.token_ids))
    return TrainingExample("", tuple(answer.prompt_ids), (response,))


def shift(
    log: str, answers: Sequence[Answer], ranks: Mapping[str, Sequence[NDArray[np.int64]]], left_out: int, **options: Any
) -> SplitShift:
    """The shift of answers; `ranks` are those under the policies "before" and "after", one array for each answer.

    `options`: `seed` and `bootstrap_samples`.
    """
    deltas = [old - new for old, new in zip(ranks["before"], ranks["after"], strict=True)]
    sums = _sums(answers, deltas)
    draws = _RATIOS.draws(sums, **options)
    levels = {name: Share(draws.values[name] or 0.0, *_ends(draws, name, len(sums))) for name in _RATIOS.metrics}
    own = np.concatenate(list(ranks["after"]))
    first = float((own == 1).mean())
    return SplitShift(log, len(answers), len(sums), len(own), first, levels, _bins(answers, deltas), left_out)


def _sums(answers: Sequence[Answer], deltas: Iterable[NDArray[np.int64]]) -> TopicSums:
    def row(delta: NDArray[np.int64]) -> dict[str, float]:
        marginal, shifted = _levels(delta)
        counts = (len(delta), marginal.sum(), shifted.sum(), (delta > 0).sum())
        return {name: float(count) for name, count in zip(_RATIOS.sums, counts, strict=True)}

    return _RATIOS.add_up((answer.topic, row(delta)) for answer, delta in zip(answers, deltas, strict=True))


def _levels(delta: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(marginal, shifted) of each token."""
    shifted = delta > _MARGINAL
    return (delta > 0) & ~shifted, shifted


def _ends(draws: Draws, name: str, topics: int) -> tuple[float | None, float | None]:
    return interval(draws.resampled[name], topics)


def _bins(answers: Sequence[Answer], deltas: Sequence[NDArray[np.int64]]) -> tuple[Bin, ...]:
    places = np.concatenate([np.array(answer.positions, dtype=float) for answer in answers])
    marginal, shifted = _levels(np.concatenate(list(deltas)))
    number = np.minimum((places * BINS).astype(int), BINS - 1)
    found = []
    for each in range(BINS):
        own = number == each
        count = int(own.sum())
        found.append(Bin(count, *(float(level[own].mean()) if count else 0.0 for level in (marginal, shifted))))
    return tuple(found)
