"""Pairs of labelled answers, and the training examples that they give under the config's mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, MaskError
from maskdpo_ray.pairing import scoring
from maskdpo_ray.pairing.masks import MaskPolicy, token_weights
from maskdpo_ray.pairing.scoring import mixture
from maskdpo_ray.pairing.selection import select
from maskdpo_ray.pairing.strategies import protocol as strategies
from maskdpo_ray.records import (
    CHOSEN,
    MISMATCHED,
    REJECTED,
    DropReason,
    Labelled,
    PreferencePair,
    Response,
    ScoredAnswer,
    TrainingExample,
)
from maskdpo_ray.training.example_store import ExampleStore, ExampleWriter
from maskdpo_ray.training.objectives import protocol as objectives
from maskdpo_ray.training.objectives.protocol import Objective

Paired = tuple[PreferencePair, TrainingExample]


def check(config: Config) -> None:
    """Refuse a score, strategy, mask or objective that can't be found, and those that don't go together.

    Raises ConfigError, one line.
    """
    scoring.build(config.pairs)
    strategy, objective = strategies.build(config.pairs), _objective(config)
    MaskPolicy.from_config(config.mask.policy)
    if config.run.iterations > config.sft.iterations and objective.unit == "pair" and strategy.unit != "pair":
        expected = f"a strategy that picks pairs, which objective.name {config.objective.name} compares"
        raise ConfigError(f"pairs.strategy: expected {expected}, got {config.pairs.strategy}")


def pairs_and_examples(item: Labelled, config: Config, tokenizer: Any) -> tuple[list[Paired], list[DropReason]]:
    """The pairs that `pairs.strategy` makes with their training examples, and the reasons for all that was dropped."""
    score = scoring.build(config.pairs)
    answers = [scoring.scored(r, a, score) for r, a in zip(item.rollouts, item.annotations, strict=True)]
    selection = select(item.question, item.prompt_token_ids, answers, config.pairs, config.run.seed)
    kept, drops = list[Paired](), list(selection.drops)
    for pair in selection.pairs:
        example = usable_example(pair, len(kept), config, tokenizer)
        if isinstance(example, DropReason):
            drops.append(example)
        else:
            kept.append((pair, example))
    return kept, drops


def usable_example(pair: PreferencePair, number: int, config: Config, tokenizer: Any) -> TrainingExample | DropReason:
    """The training example of a pair, `number` among its question's, or why the policy can't learn from it."""
    sides = list(pair.sides().values())
    if len(sides) == 2 and sides[0].rollout.text == sides[1].rollout.text:
        return DropReason.IDENTICAL_TEXT
    try:
        example = example_of(pair, number, config, tokenizer)
    except MaskError:
        return DropReason.NOT_LOCATED
    if _objective(config).unit == "pair" and len(sides) < 2:
        return DropReason.UNPAIRED
    return example if teaches(example) else DropReason.NOTHING_TO_LEARN


def example_of(pair: PreferencePair, number: int, config: Config, tokenizer: Any) -> TrainingExample:
    """A pair with the config's token weights, as far as its objective learns from it.

    Raises MaskError when they can't be located.
    """
    policy = MaskPolicy.from_config(config.mask.policy)
    return make_example(pair, tokenizer, policy, config.mask.eos, number, _objective(config).roles)


def _objective(config: Config) -> Objective:
    return objectives.load(config.objective.name, config.objective.options)


def make_example(
    pair: PreferencePair,
    tokenizer: Any,
    policy: MaskPolicy,
    eos: str,
    number: int = 0,
    roles: Collection[str] = (CHOSEN, REJECTED),
) -> TrainingExample:
    """Weigh the tokens of a pair's answers in `roles` under a mask policy.

    `eos` is a rule of `token_weights`, or "chosen": "keep" in the chosen and "drop" in the rejected answer.

    Raises MaskError when an answer's ids don't spell its text or a sentence can't be located.
    """

    def weigh(answer: ScoredAnswer, role: str) -> tuple[float, ...]:
        spans = [(sentence.start, sentence.end) for sentence in answer.annotation.sentences]
        weights = policy.span_weights(answer.annotation, role)
        rule: Any = {CHOSEN: "keep", REJECTED: "drop"}[role] if eos == "chosen" else eos
        rollout = answer.rollout
        blocks = [(block.start, block.end) for block in rollout.blocks]
        ended = rollout.finish_reason == "stop"
        return tuple(token_weights(tokenizer, rollout.token_ids, rollout.text, spans, weights, rule, blocks, ended))

    sides = {role: answer for role, answer in pair.sides().items() if role in roles}
    responses = [Response(role, answer.rollout.token_ids, weigh(answer, role)) for role, answer in sides.items()]
    return TrainingExample(f"{pair.question_id}#{number}", pair.prompt_token_ids, tuple(responses))


def teaches(example: TrainingExample) -> bool:
    """Whether every response has a token to learn from; else the pair is dropped and counted."""
    return bool(example.responses) and all(any(response.weights) for response in example.responses)


def with_mismatched(examples: ExampleStore) -> Iterator[TrainingExample]:
    """Each example with an answer to another question as a response beside its own: the next one's first.

    KTO (arXiv 2402.01306, section 4.1) estimates a KL divergence from such answers; nothing is learned from them.
    """
    for index, example in enumerate(examples):
        other = examples[(index + 1) % len(examples)].responses[0]
        yield replace(example, responses=(*example.responses, replace(other, role=MISMATCHED)))


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

    def finish(self, has_mismatched: bool = False) -> ExampleStore:
        """The store, sorted by the examples' ids; each `with_mismatched` if wanted."""
        store = self._writer.finish(by_id=True)
        return ExampleStore.write(store.path.parent, with_mismatched(store)) if has_mismatched else store
