"""Pairs of labelled answers, and the training examples that they give under the config's mask."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfidenceError, ConfigError, MaskError
from maskdpo_ray.pairing import scoring
from maskdpo_ray.pairing.masks import LocatedSpans, MaskPolicy, locate
from maskdpo_ray.pairing.scoring import mixture
from maskdpo_ray.pairing.selection import select
from maskdpo_ray.pairing.strategies import protocol as strategies
from maskdpo_ray.records import (
    CHOSEN,
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    MISMATCHED,
    NO_FACT,
    NO_HALLUCINATION,
    REJECTED,
    UNVERIFIABLE,
    Annotation,
    DropReason,
    Labelled,
    PreferencePair,
    Question,
    Response,
    Rollout,
    ScoredAnswer,
    Sentence,
    TrainingExample,
)
from maskdpo_ray.training.example_store import ExampleStore, ExampleWriter
from maskdpo_ray.training.objectives import protocol as objectives
from maskdpo_ray.training.objectives.protocol import Objective


def check(config: Config) -> None:
    """Refuse a score, strategy, mask or objective that can't be found or fails, and those that don't go together.

    Raises ConfigError, one line.
    """
    check_mask(config)
    score, strategy, objective = scoring.build(config.pairs), strategies.build(config.pairs), _objective(config)
    answers = [scoring.scored(*_answer(sample, labels), score) for sample, labels in enumerate(_TRIED)]
    select(_QUESTION, (), answers, config.pairs, config.run.seed)
    if config.run.iterations > config.sft.iterations and objective.unit == "pair" and strategy.unit != "pair":
        expected = f"a strategy that picks pairs, which objective.name {config.objective.name} compares"
        raise ConfigError(f"pairs.strategy: expected {expected}, got {config.pairs.strategy}")


_QUESTION = Question("tried", "tried", ())
_TRIED = ((NO_HALLUCINATION,), (NO_HALLUCINATION, CONTRADICTORY), (CONTRADICTORY, NO_FACT), (UNVERIFIABLE,))
"""Labels of the answers that a score and a strategy are tried on before a run."""


def _answer(sample: int, labels: Sequence[str]) -> tuple[Rollout, Annotation]:
    sentences = tuple(Sentence(3 * place, 3 * place + 2, label, confidence=1.0) for place, label in enumerate(labels))
    rollout = Rollout(_QUESTION.id, sample, (), "A. " * len(labels), "stop", 0)
    return rollout, Annotation(_QUESTION.id, sample, sentences)


def check_mask(config: Config) -> MaskPolicy:
    """The mask of a config. Raises ConfigError as `check` does, of mask and objective only."""
    if _objective(config).unit == "pair" and config.mask.unit != "answer":
        expected = (
            f"answer, as objective.name {config.objective.name} compares two answers (kto, kto_pair and sft don't)"
        )
        raise ConfigError(f"mask.unit: expected {expected}, got {config.mask.unit}")
    return _policy(config)


def usable_pairs(item: Labelled, config: Config, tokenizer: Any) -> tuple[list[PreferencePair], list[DropReason]]:
    """The pairs that `pairs.strategy` makes and the policy can learn from, and the reasons for all that was dropped."""
    score = scoring.build(config.pairs)
    answers = [scoring.scored(r, a, score) for r, a in zip(item.rollouts, item.annotations, strict=True)]
    selection = select(item.question, item.prompt_token_ids, answers, config.pairs, config.run.seed)
    kept, drops = list[PreferencePair](), list(selection.drops)
    for pair in selection.pairs:
        example = usable_example(pair, len(kept), config, tokenizer)
        if isinstance(example, DropReason):
            drops.append(example)
        else:
            kept.append(pair)
    return kept, drops


def usable_example(
    pair: PreferencePair, number: int, config: Config, tokenizer: Any, kinds: Mapping[str, float] | None = None
) -> TrainingExample | DropReason:
    """The training example of a pair, or why the policy can't learn from it; arguments are those of `example_of`."""
    sides = list(pair.sides().values())
    if len(sides) == 2 and sides[0].rollout.text == sides[1].rollout.text:
        return DropReason.IDENTICAL_TEXT
    try:
        example = example_of(pair, number, config, tokenizer, kinds)
    except ConfidenceError:
        return DropReason.NO_CONFIDENCE
    except MaskError:
        return DropReason.NOT_LOCATED
    if _objective(config).unit == "pair" and len(sides) < 2:
        return DropReason.UNPAIRED
    return example if teaches(example) else DropReason.NOTHING_TO_LEARN


def example_of(
    pair: PreferencePair, number: int, config: Config, tokenizer: Any, kinds: Mapping[str, float] | None = None
) -> TrainingExample:
    """A pair with the config's token weights, as far as its objective learns from it.

    Args:
        number: of the pair among its question's.
        kinds: `balance` of the pairs that it is one of.

    Raises MaskError when they can't be located.
    """
    roles, mask = _objective(config).roles, config.mask
    policy = replace(_policy(config), kinds=kinds or {})
    return make_example(pair, tokenizer, policy, mask.eos, number, roles, mask.unit == "sentence")


def balance(pairs: Iterable[PreferencePair], config: Config) -> dict[str, float]:
    """Kind of fact -> what multiplies its weights in rejected answers, for `mask.balance`; without it, none."""
    most = config.mask.balance
    return {} if most is None else dict(_policy(config).balanced(pairs, most).kinds)


def _policy(config: Config) -> MaskPolicy:
    return MaskPolicy.from_config(config.mask.policy, config.mask.confidence)


def needs_mismatched(config: Config) -> bool:
    """Whether the objective's examples are those of `with_mismatched`."""
    return _objective(config).needs_mismatched


def _objective(config: Config) -> Objective:
    return objectives.load(config.objective.name, config.objective.options)


def make_example(
    pair: PreferencePair,
    tokenizer: Any,
    policy: MaskPolicy,
    eos: str,
    number: int = 0,
    roles: Collection[str] = (CHOSEN, REJECTED),
    by_sentence: bool = False,
) -> TrainingExample:
    """Weigh the tokens of a pair's answers under a mask policy: a response for each answer, or each of their sentences.

    `eos` is a rule of `token_weights`, or "chosen": "keep" in chosen and "drop" in rejected responses. Responses in
    other `roles` are left out.

    Raises MaskError when an answer's ids don't spell its text or a sentence can't be located.
    """
    responses = list[Response]()
    for role, answer in pair.sides().items():
        if by_sentence:
            responses += _sentence_responses(answer, tokenizer, policy, eos, roles)
        elif role in roles:
            weights = _located(answer, tokenizer).weights(
                policy.span_weights(answer.annotation, role), _rule(eos, role)
            )
            responses.append(Response(role, answer.rollout.token_ids, tuple(weights)))
    return TrainingExample(f"{pair.question_id}#{number}", pair.prompt_token_ids, tuple(responses))


def _sentence_responses(
    answer: ScoredAnswer, tokenizer: Any, policy: MaskPolicy, eos: str, roles: Collection[str]
) -> Iterator[Response]:
    """Each sentence as a response of its own: FactAlign's sentence-level KTO (arXiv 2410.01691).

    The label decides on the role, whichever side the answer is on. The sentence stands in its answer, and its tokens
    alone have weight; a token that it shares with another sentence has none. `eos` belongs to the last sentence.
    """
    located, spans = _located(answer, tokenizer), answer.annotation.sentences
    table = {role: policy.span_weights(answer.annotation, role) for role in roles}
    for index, span in enumerate(spans):
        role = CHOSEN if span.label in CORRECT else REJECTED
        if role not in roles or span.label not in CORRECT | INCORRECT:
            continue
        own = [table[role][index] if place == index else 0.0 for place in range(len(spans))]
        weights = located.weights(own, _rule(eos, role) if index == located.order[-1] else "drop")
        if any(weights):
            yield Response(role, answer.rollout.token_ids, tuple(weights))


def _located(answer: ScoredAnswer, tokenizer: Any) -> LocatedSpans:
    rollout = answer.rollout
    spans = [(sentence.start, sentence.end) for sentence in answer.annotation.sentences]
    blocks = [(block.start, block.end) for block in rollout.blocks]
    return locate(tokenizer, rollout.token_ids, rollout.text, spans, blocks, rollout.finish_reason == "stop")


def _rule(eos: str, role: str) -> str:
    return {CHOSEN: "keep", REJECTED: "drop"}[role] if eos == "chosen" else eos


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


QUESTIONS = "questions"
"""Source of the pairs of the training questions."""


class CollectedExamples:
    """The examples of an iteration on their way into a store, in any order, from several sources."""

    def __init__(self, folder: Path) -> None:
        """The store is to lie in `folder`. Raises RunFolderError when that can't be written."""
        self._writer = ExampleWriter(folder)
        self._mixture: Counter[str] = Counter()
        self._sources: list[str] = []

    def __len__(self) -> int:
        return len(self._writer)

    def add(self, pair: PreferencePair, example: TrainingExample, source: str | None = None) -> None:
        """Store the example of `pair`. Raises RunFolderError when the disk is full."""
        self._writer.add(example if source is None else replace(example, id=f"{source}:{example.id}"))
        self._sources.append(sys.intern(source or QUESTIONS))
        self._mixture.update(mixture([pair]))

    def mixture(self) -> dict[str, float]:
        """`scoring.mixture` of all pairs."""
        return {name: self._mixture[name] / max(len(self), 1) for name in mixture([])}

    def finish(
        self, shares: Mapping[str, float] | None = None, seed: str = "", has_mismatched: bool = False
    ) -> tuple[ExampleStore, dict[str, int]]:
        """The store, sorted by the examples' ids, and the number of its examples from each source.

        Args:
            shares: source -> its share; of sources with more examples some are left out, drawn by `seed`.
            has_mismatched: each example gets what `with_mismatched` adds.
        """
        counts = Counter(self._sources)
        kept = dict(counts) if shares is None else in_shares(counts, shares)
        places: list[int] = []
        for source, count in kept.items():
            own = sorted((self._writer.ids[place], place) for place, of in enumerate(self._sources) if of == source)
            places += [place for _, place in random.Random(f"{seed}/{source}").sample(own, count)]
        store = self._writer.finish(sorted(places, key=self._writer.ids.__getitem__))
        if has_mismatched:
            store = ExampleStore.write(store.path.parent, with_mismatched(store))
        return store, kept


def in_shares(counts: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, int]:
    """How many of each source's examples to keep: as many as can be in these shares, which need not add up to 1.

    A source without a share has none; a source without examples takes no part.
    """
    taking = {source: shares.get(source, 0) for source in counts if counts[source]}
    whole = min((counts[source] / share for source, share in taking.items() if share), default=0)
    # Rounding may not give a source more than it has, nor lose one of an exact product.
    return {source: min(counts[source], int(whole * share + 1e-9)) for source, share in taking.items()}
