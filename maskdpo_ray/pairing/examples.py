"""A question's labelled answers -> its pair, kept only if the policy can learn from it under the config's mask.

What an iteration's pairs teach, kept in a file without a name: 125,000 pairs as objects would take gigabytes.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import MaskError, RunFolderError
from maskdpo_ray.pairing.masks import MaskPolicy, token_weights
from maskdpo_ray.pairing.scoring import mixture, scored
from maskdpo_ray.pairing.strategies import STRATEGIES
from maskdpo_ray.records import DropReason, Labelled, PreferencePair, ScoredAnswer, TrainingExample


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
    return example if teaches(example) else DropReason.NOTHING_TO_LEARN


def example_of(pair: PreferencePair, config: Config, tokenizer: Any) -> TrainingExample:
    """A pair with the config's token weights. Raises MaskError when they can't be located."""
    return make_example(pair, tokenizer, MaskPolicy.from_config(config.mask.policy), config.mask.eos)


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


_IN_MEMORY = 2**24
"""Bytes; more of them go to the disk."""


class Lessons(Sequence[TrainingExample]):
    """Examples in the order of their ids, whatever the order in which they were added. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """The file goes where `folder` is, which must be there."""
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115
        self._ids: list[str] = []
        self._starts = array("Q")
        self._sizes = array("I")
        """Of prompt, chosen and rejected answer, tokens; three for each example."""
        self._order: list[int] | None = None
        self._mixture: Counter[str] = Counter()

    def add(self, pair: PreferencePair, example: TrainingExample) -> None:
        """Keep what `pair` teaches. Raises RunFolderError when the disk is full."""
        answers = (example.chosen_token_ids, example.rejected_token_ids)
        tokens = array("q", (*example.prompt_token_ids, *answers[0], *answers[1]))
        weights = array("d", (*example.chosen_weights, *example.rejected_weights))
        try:
            self._file.seek(0, 2)
            self._starts.append(self._file.tell())
            self._file.write(tokens.tobytes() + weights.tobytes())
        except OSError as error:
            raise RunFolderError(f"{self._folder}: can't be written: {error.strerror}") from error
        self._ids.append(example.pair_id)
        self._sizes.extend((len(example.prompt_token_ids), len(answers[0]), len(answers[1])))
        self._mixture.update(mixture([pair]))
        self._order = None

    def mixture(self) -> dict[str, float]:
        """`pairs.mixture` of all pairs."""
        return {name: self._mixture[name] / max(len(self), 1) for name in mixture([])}

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> TrainingExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingExample]: ...
    def __getitem__(self, index: int | slice) -> TrainingExample | list[TrainingExample]:
        if self._order is None:
            self._order = sorted(range(len(self)), key=self._ids.__getitem__)
        if isinstance(index, slice):
            return [self._read(number) for number in self._order[index]]
        return self._read(self._order[index])

    def __iter__(self) -> Iterator[TrainingExample]:
        return (self[index] for index in range(len(self)))

    def _read(self, number: int) -> TrainingExample:
        prompt, chosen, rejected = self._sizes[3 * number : 3 * number + 3]
        num_tokens, num_weights = prompt + chosen + rejected, chosen + rejected
        self._file.seek(self._starts[number])
        data = self._file.read(8 * (num_tokens + num_weights))
        tokens = tuple(np.frombuffer(data, np.int64, num_tokens).tolist())
        weights = tuple(np.frombuffer(data, np.float64, num_weights, 8 * num_tokens).tolist())
        return TrainingExample(
            pair_id=self._ids[number],
            prompt_token_ids=tokens[:prompt],
            chosen_token_ids=tokens[prompt : prompt + chosen],
            rejected_token_ids=tokens[prompt + chosen :],
            chosen_weights=weights[:chosen],
            rejected_weights=weights[chosen:],
        )
