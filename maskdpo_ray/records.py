"""Every record that crosses a process or lands on disk, and its JSON form.

One record a line (JSON Lines, UTF-8). Readers refuse unknown or missing fields, so that a file of
another schema is an error and not a guess.

A published policy: what engines load and rollouts are stamped with.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from maskdpo_ray.errors import shown

SCHEMA_VERSION = 1
NO_FACT = "no_fact"
NO_HALLUCINATION = "no_hallucination"
CONTRADICTORY = "contradictory"
UNVERIFIABLE = "unverifiable"
UNPARSED = "unparsed"
# Mask-DPO appendix A: the first two of ANAH-v2's types count as hallucination-free, the last two
# as hallucination. `unparsed` is annotator output that could not be read: on neither side.
CORRECT = frozenset({NO_FACT, NO_HALLUCINATION})
INCORRECT = frozenset({CONTRADICTORY, UNVERIFIABLE})
LABELS = (NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE, UNPARSED)
# What a second evaluator says of a fact, FActScore's three; `unparsed` as above.
SUPPORTED = "supported"
UNSUPPORTED = "unsupported"
IRRELEVANT = "irrelevant"
VERDICTS = (SUPPORTED, UNSUPPORTED, IRRELEVANT, UNPARSED)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Question:
    """One question of one topic, and what its answers can be checked against.

    Example: `Question("rwanda/five", "Rwanda", ({"role": "user", "content": "Give five ..."},))`
    """

    id: str
    topic: str
    """Questions of one topic are never split between training and evaluation."""
    prompt: tuple[dict[str, Any], ...]
    """Chat messages, each {"role", "content"} and further keys for the chat template; the last one is the user's or a
    tool's."""
    document: str | None = None
    """Reference text for annotators that read."""
    facts: dict[str, Any] | None = None
    """Structured facts for annotators that look up."""
    answer: str | None = None
    """Standard answer, for short-answer evaluators."""
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a reply's text outside the answer: a thinking block (with its tags and trailing white space), or the
    prefix that the chat template writes before every answer. No sentences, weight 0, not counted in the length.
    """

    start: int
    """First character, an offset into `Rollout.text`."""
    end: int
    """One past the last character."""
    first: int = 0
    """Index of its first token id."""
    tokens: int = 0
    """Number of token ids in it; 0 for an answer without token ids."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer."""

    question_id: str
    sample: int
    """0 .. K-1 within the question."""
    token_ids: tuple[int, ...]
    """Exactly as sampled, EOS included when the engine stopped at it."""
    text: str
    """What `token_ids` spell, special tokens left out."""
    finish_reason: str
    """`stop` or `length` (cut off at the limit)."""
    policy_version: int
    """0 is the initial policy, i + 1 the policy after iteration i."""
    blocks: tuple[Block, ...] = ()
    """Blocks in order, not overlapping."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A labelled span of an answer. A sentence by default; a clause or a fact works the same."""

    start: int
    """First character, an offset into `Rollout.text`."""
    end: int
    """One past the last character."""
    label: str
    """One of `LABELS`."""
    confidence: float | None = None
    """0 to 1, or None when the annotator gives none."""
    evidence: str | None = None
    """Why: the fact or passage that decided."""
    kind: str | None = None
    """Kind of fact ("capital", "currency"), for reports; None when not known."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """The labels of one answer, sentences in order and not overlapping."""

    question_id: str
    sample: int
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class JudgedFact:
    """A fact of an answer, as a second evaluator reads it."""

    text: str
    """In the evaluator's words, which need not be the answer's."""
    verdict: str
    """One of `VERDICTS`."""
    evidence: str | None = None
    """The passage that decided."""


@dataclass(frozen=True, slots=True)
class Surprisal:
    """How little a language model expected an answer."""

    nats: float
    """Sum of -log p over the answer's tokens, each after the prompt and the tokens before it."""
    num_tokens: int
    """The model's own, which need not be the policy's."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a second evaluator, and a second language model, make of one answer."""

    question_id: str
    sample: int
    facts: tuple[JudgedFact, ...]
    abstained: bool = False
    """The answer says that it does not know."""
    surprisal: Surprisal | None = None
    """None: not measured, as no model measures it or the answer is too long for that model."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """An answer with its labels and its factuality score (Mask-DPO section 2.2)."""

    rollout: Rollout
    annotation: Annotation
    score: float | None
    """Correct sentences / parsed sentences, 0 to 1; None when no sentence could be parsed."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """The unit that the policy learns from."""

    question_id: str
    topic: str
    prompt_token_ids: tuple[int, ...]
    """The rendered chat prompt, generation prompt included, as the engine saw it."""
    chosen: ScoredAnswer
    rejected: ScoredAnswer
    policy_version: int


def _by_fields(kind: type) -> None:
    """Pickle records as calls of their class: what dataclasses do themselves takes three times as long."""
    values = attrgetter(*(field.name for field in dataclasses.fields(kind)))

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return kind, values(self)

    kind.__reduce__ = __reduce__  # type: ignore[method-assign]


for _kind in (Question, Block, Rollout, Sentence, Annotation, JudgedFact, Judgement, ScoredAnswer, PreferencePair):
    _by_fields(_kind)  # each has more than one field


Record = TypeVar("Record")


def is_text(value: object) -> bool:
    """Whether `value` is text that a file can hold: lone surrogates, which JSON's escapes can spell, are no UTF-8."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE.search(value) is None)


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON values."""
    return dataclasses.asdict(record)


@cache
def _fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_json(kind: type[Record], value: Any) -> Record:
    """Build a record of `kind` from parsed JSON.

    Raises ValueError naming the field, what was expected and what came.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object with the fields of {_words(kind)}, got {_short(value)}")
    hints = _fields(kind)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise ValueError(f"unknown field {shown(min(unknown))} in {_words(kind)}; known: {', '.join(hints)}")
    required = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    missing = required - value.keys()
    if missing:
        raise ValueError(f"missing field {sorted(missing)[0]!r} in {_words(kind)}")
    return kind(**{name: _convert(hints[name], item, name) for name, item in value.items()})


def _words(kind: type) -> str:
    """`PreferencePair` as "the preference pair"."""
    return "the " + re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def _convert(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"field {name!r}: expected a list, got {_short(value)}")
        if arguments[0] is int and set(map(type, value)) <= {int}:  # token ids, of which there are many
            return tuple(value)
        return tuple(_convert(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"field {name!r}: expected an object, got {_short(value)}")
        return {str(k): _convert(arguments[1], item, f"{name}.{k}") for k, item in value.items()}
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        try:
            return from_json(hint, value)
        except ValueError as error:
            raise ValueError(f"field {name!r}: {error}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"field {name!r}: expected float, got {_short(value)}") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"field {name!r}: expected {hint.__name__}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


@dataclass(frozen=True, slots=True)
class Policy:
    version: int
    """0 is the initial policy, i + 1 the policy after iteration i."""
    path: str
    """A Hugging Face folder: safetensors, config, tokenizer."""
    checksum: str
    """sha256 of its safetensors (`actors.weights.checksum`)."""


LANGUAGES = ("en", "zh")


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


PairLogps = tuple[np.ndarray, np.ndarray]
"""Of one pair's responses, chosen and rejected: [response length] float32 each, 0 where the weight is 0."""
EVALUATE = "evaluate-"
"""Prefix of the `purpose` of evaluated answers, which are sampled by the options of `eval`."""


@dataclass(frozen=True)
class Failed:
    """A question that a group gave up; the groups after it let it pass."""

    question: Question
    error: str
    """One line: which actor failed at last, and why."""


@dataclass(frozen=True)
class Answered:
    """A question with its K answers."""

    question: Question
    prompt_token_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True)
class Labelled:
    """A question with its answers and their labels, in the same order."""

    question: Question
    prompt_token_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]
    annotations: tuple[Annotation, ...]
    judgements: tuple[Judgement, ...] = ()
    """By others than the annotator, of held-out answers and only where there are such."""


class DropReason(StrEnum):
    """Why a question gives no pair. The values are the names in ledgers, metrics and summaries."""

    TOO_FEW_ANSWERS = "too_few_answers"
    """Fewer than two answers were sampled."""
    TRUNCATED = "truncated"
    """Fewer than two answers ended before the length limit."""
    UNPARSED = "unparsed"
    """Fewer than two of these have a sentence that the annotator's output could be read for."""
    IDENTICAL_TEXT = "identical_text"
    SAME_SCORE = "same_score"
    TOO_FEW_FACTS = "too_few_facts"
    """The best answer states fewer correct facts than `pairs.min_facts`; with `pairs.next_best` so do all answers
    better than the worst."""
    CHOSEN_WITHOUT_CORRECT = "chosen_without_correct"
    REJECTED_WITHOUT_INCORRECT = "rejected_without_incorrect"
    NOTHING_TO_LEARN = "nothing_to_learn"
    """The mask policy leaves a side without a weighted token; known only once tokens are weighed."""
    NOT_LOCATED = "not_located"
    """An answer's ids don't spell its text, or a sentence lies outside it; known as late."""
    FAILED = "failed"
    """The actors that were to answer or label it failed, again and again: it has no answers."""


@dataclass(frozen=True)
class PairsSummary:
    """What an iteration's questions gave: pairs-summary.json."""

    questions: int
    pairs: int
    drops: dict[str, int]
    """Reason -> questions without a pair; of a pairs file, records that were dropped."""
    mixture: dict[str, float]
    """What `mixture` gives."""
    failed_example: str | None = None
    """The error of a question that failed, if one did."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> the error of the first record of a pairs file that was dropped for it."""
