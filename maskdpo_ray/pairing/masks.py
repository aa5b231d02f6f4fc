"""Token weights: which sampled tokens an objective learns from, and how much.

A mask policy gives each sentence a weight by its label and its side of the pair; `token_weights`
carries these over to the token ids as sampled. What can't be located is an error, never unmasked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from maskdpo_ray.errors import ConfidenceError, ConfigError, MaskError
from maskdpo_ray.models.token_spans import added_tokens, num_trailing, special_ids, token_spans
from maskdpo_ray.records import CHOSEN, CORRECT, INCORRECT, LABELS, REJECTED, Annotation, PreferencePair, Sentence

__all__ = ["MASK_DPO", "VANILLA", "MaskPolicy", "token_spans", "token_weights"]
SIDES = ("chosen", "rejected")


def token_weights(
    tokenizer: Any,
    token_ids: Sequence[int],
    text: str,
    spans: Sequence[tuple[int, int]],
    span_weights: Sequence[float],
    eos: Literal["last_sentence", "keep", "drop"] = "last_sentence",
    blocks: Sequence[tuple[int, int]] = (),
    stopped: bool = False,
) -> list[float]:
    """One weight per token id, from the weights of the sentences.

    - A token has the weight of the sentence that it lies in, and the smallest one of those that it
      overlaps. Holding part of a character counts as holding it.
    - White space at the edges of and between sentences belongs to none and decides for no token that
      also holds sentence characters: " It" goes with the sentence of "It".
    - A token without sentence characters (white space, or text that no span covers) has the smaller
      weight of its two neighbouring sentences; before the first and after the last one, that one's.
    - A special token inside the text has the weight of its place. Special tokens at the end, and a last
      added token or one left out of the text, if it is in no sentence, follow `eos`: the
      last sentence's weight, 1 ("keep") or 0 ("drop").
    - A token that lies in one of the `blocks`, or holds a part of it that is not white space at its edges, has
      weight 0.

    Args:
        tokenizer: see `maskdpo_ray.models.token_spans.token_spans`.
        token_ids: as sampled, EOS included or not.
        text: what they decode to, with special tokens or without.
        spans: (start, end) of each sentence, in characters of `text`, in any order.
        span_weights: one per span, finite and at least 0.
        eos: rule for trailing special tokens.
        blocks: (start, end) of parts outside the answer, such as thinking, in characters of `text`.
        stopped: see `token_spans`.

    Raises:
        MaskError: when the ids do not spell `text`; when there is no span, or one is out of range,
            empty, reversed, all white space or overlaps another; on a weight that is not such.
        ValueError: on another `eos`.
    """
    if len(spans) != len(span_weights):
        raise MaskError(f"{len(spans)} spans, but {len(span_weights)} weights")
    return locate(tokenizer, token_ids, text, spans, blocks, stopped).weights(span_weights, eos)


@dataclass(frozen=True)
class LocatedSpans:
    """Tokens of an answer by the spans that decide their weights: what `token_weights` finds before it weighs."""

    deciding: tuple[tuple[int, int], ...]
    """First of the spans that decide and one past the last, by their place in the text, token by token; the same number
    twice where none does, in a block."""
    order: tuple[int, ...]
    """Index of each span as given, by its place in the text."""
    num_ending: int
    """Number of tokens at the end that follow `eos`."""

    def weights(self, span_weights: Sequence[float], eos: str = "last_sentence") -> list[float]:
        """One weight per token; see `token_weights`, whose errors about weights and `eos` it raises."""
        if eos not in ("last_sentence", "keep", "drop"):
            raise ValueError(f"eos: expected last_sentence, keep or drop, got {eos!r}")
        for number, weight in enumerate(span_weights):
            if not (math.isfinite(weight) and weight >= 0):
                raise MaskError(f"span {number}: expected a finite weight of at least 0, got {weight}")
        weights = [float(span_weights[index]) for index in self.order]
        result = [min(weights[first:last], default=0.0) for first, last in self.deciding]
        if self.num_ending:
            at_end = {"last_sentence": weights[-1], "keep": 1.0, "drop": 0.0}[eos]
            result[-self.num_ending :] = [at_end] * self.num_ending
        return result


def locate(
    tokenizer: Any,
    token_ids: Sequence[int],
    text: str,
    spans: Sequence[tuple[int, int]],
    blocks: Sequence[tuple[int, int]] = (),
    stopped: bool = False,
) -> LocatedSpans:
    """Find the tokens of the spans. Arguments, rules and errors are those of `token_weights`."""
    sentences, order = _sentences(text, spans)
    starts = [start for start, _ in sentences]
    ends = [end for _, end in sentences]
    # White space at a block's edges is in no one's way: " It" goes with the sentence of "It" here, too.
    thoughts = [_inner(text, *block) for block in blocks if text[slice(*block)].strip()]

    special = special_ids(tokenizer, token_ids)
    ranges = token_spans(tokenizer, token_ids, text, special, stopped)
    deciding, first, last = list[tuple[int, int]](), 0, 0  # of the sentences; they advance with the tokens
    for start, end in ranges:
        # An empty range counts as lying in the sentence around it.
        while first < len(ends) and ends[first] <= start:
            first += 1
        while last < len(starts) and starts[last] < end:
            last += 1
        if any(begin <= start and end <= stop for begin, stop in blocks) or any(
            begin < end and start < stop for begin, stop in thoughts
        ):
            deciding.append((0, 0))
        elif first < last:
            deciding.append((first, last))
        else:
            deciding.append((max(first - 1, 0), first + 1))
    is_end = [int(token) in special for token in token_ids]
    if ranges and ranges[-1][0] >= ends[-1]:
        is_left_out = stopped and ranges[-1] == (len(text), len(text))
        is_end[-1] |= is_left_out or int(token_ids[-1]) in added_tokens(tokenizer)
    return LocatedSpans(tuple(deciding), tuple(order), num_trailing(is_end))


def _sentences(text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[int]]:
    """(start, end) in order of the text, outer white space left out, and the index of each among `spans`."""
    if not spans:
        raise MaskError("no spans: an answer without sentences has no mask")
    order = sorted(range(len(spans)), key=lambda index: tuple(spans[index]))
    sentences: list[tuple[int, int]] = []
    previous_end = 0
    for start, end in (spans[index] for index in order):
        where = f"span ({start}, {end})"
        if not 0 <= start < end <= len(text):
            raise MaskError(f"{where}: expected 0 <= start < end <= {len(text)}, the text's length")
        if start < previous_end:
            raise MaskError(f"{where} overlaps the one that ends at {previous_end}")
        if not text[start:end].strip():
            raise MaskError(f"{where} holds white space only")
        sentences.append(_inner(text, start, end))
        previous_end = end
    return sentences, order


def _inner(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without its outer white space."""
    covered = text[start:end]
    return start + len(covered) - len(covered.lstrip()), start + len(covered.rstrip())


@dataclass(frozen=True)
class MaskPolicy:
    """{label} x {chosen, rejected} -> weight: what a sentence counts for in the objective."""

    chosen: Mapping[str, float]
    """Weight of each label's sentences in chosen answers; every label of `records.LABELS`."""
    rejected: Mapping[str, float]
    """The same in rejected answers."""
    by_confidence: bool = False
    """Whether the annotator's confidence multiplies a weight above 0: a soft mask."""
    kinds: Mapping[str, float] = field(default_factory=dict)
    """Kind of fact -> what multiplies the weights of its sentences in rejected answers; 1 where there is none."""

    def __post_init__(self) -> None:
        for side in SIDES:
            object.__setattr__(self, side, _checked_weights(getattr(self, side), side))

    @classmethod
    def from_config(cls, value: str | Mapping[str, Mapping[str, float]], by_confidence: bool = False) -> MaskPolicy:
        """The policy that `mask.policy` names or spells out.

        Args:
            value: "mask_dpo", "vanilla", or {"chosen": {label: weight}, "rejected": {...}} with
                every label on both sides.
            by_confidence: `mask.confidence`.

        Raises ConfigError, one line, on anything else.
        """
        named = {"mask_dpo": MASK_DPO, "vanilla": VANILLA}
        if isinstance(value, str) and value in named:
            return replace(named[value], by_confidence=by_confidence)
        if not isinstance(value, Mapping):
            names = ", ".join(named)
            raise ConfigError(f"mask.policy: expected {names} or a table of weights, got {value!r}")
        if set(value) != set(SIDES):
            keys = ", ".join(map(str, value))
            raise ConfigError(f"mask.policy: expected the keys chosen and rejected, got {keys}")
        return cls(value["chosen"], value["rejected"], by_confidence)

    def balanced(self, pairs: Iterable[PreferencePair], most: float) -> MaskPolicy:
        """This policy with `kinds` such that no kind of fact weighs more than `most` times as much in the rejected
        answers of these pairs as in the chosen ones.

        DPO's gradient raises what has weight in a chosen answer and lowers what has some in a rejected one. Of a kind
        that is mostly wrong more is lowered, and with the values its first words: the policy no longer states it.

        A pair without a confidence that its weights need counts as none, as none is learned from. Raises MaskError on
        an unknown label.
        """
        weight = {CHOSEN: defaultdict[str, float](float), REJECTED: defaultdict[str, float](float)}
        for pair in pairs:
            sides = pair.sides()
            try:
                weights = {role: self.span_weights(answer.annotation, role) for role, answer in sides.items()}
            except ConfidenceError:
                continue
            for role, answer in sides.items():
                for sentence, each in zip(answer.annotation.sentences, weights[role], strict=True):
                    if sentence.kind:
                        weight[role][sentence.kind] += each
        rejected = {kind: of_kind for kind, of_kind in weight[REJECTED].items() if of_kind}
        return replace(
            self, kinds={kind: min(1.0, most * weight[CHOSEN][kind] / of_kind) for kind, of_kind in rejected.items()}
        )

    def span_weights(self, annotation: Annotation, side: str) -> list[float]:
        """Weights of an answer's sentences, in their order.

        Raises MaskError on an unknown label, ConfidenceError where a weight lacks the confidence that multiplies it.
        """
        if side not in SIDES:
            raise ValueError(f"side: expected chosen or rejected, got {side!r}")
        table = self.chosen if side == "chosen" else self.rejected
        for sentence in annotation.sentences:
            if sentence.label not in table:
                raise MaskError(f"label {sentence.label!r}: expected one of {', '.join(LABELS)}")
        kinds = self.kinds if side == REJECTED else {}
        return [
            self._multiplied(table[sentence.label], sentence) * kinds.get(sentence.kind or "", 1.0)
            for sentence in annotation.sentences
        ]

    def _multiplied(self, weight: float, sentence: Sentence) -> float:
        if not (self.by_confidence and weight):
            return weight
        if sentence.confidence is None:
            raise ConfidenceError(f"label {sentence.label!r} of span ({sentence.start}, {sentence.end}): no confidence")
        return weight * sentence.confidence


def _checked_weights(table: object, side: str) -> dict[str, float]:
    where = f"mask.policy.{side}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a weight for each label, got {table!r}")
    unknown = [label for label in table if label not in LABELS]
    missing = [label for label in LABELS if label not in table]
    if unknown or missing:
        problem = f"unknown label {unknown[0]!r}" if unknown else f"no weight for {missing[0]!r}"
        raise ConfigError(f"{where}: expected each of {', '.join(LABELS)}, got {problem}")
    for label, weight in table.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (number and math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{where}.{label}: expected a finite number of at least 0, got {weight!r}")
    return {label: float(table[label]) for label in LABELS}


# Mask-DPO eq. 5: a_i = 0 on the chosen side, a_i = 1 on the rejected one; appendix A says which of
# the annotator's types count as which. `unparsed` is on neither side.
MASK_DPO = MaskPolicy(
    chosen={label: float(label in CORRECT) for label in LABELS},
    rejected={label: float(label in INCORRECT) for label in LABELS},
)
VANILLA = MaskPolicy(chosen=dict.fromkeys(LABELS, 1.0), rejected=dict.fromkeys(LABELS, 1.0))
"""Plain DPO."""
