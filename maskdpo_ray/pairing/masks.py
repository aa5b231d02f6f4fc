"""Token weights: which sampled tokens an objective learns from, and how much.

A mask policy gives each sentence a weight by its label and its side of the pair; `token_weights`
carries these over to the token ids as sampled. What can't be located is an error, never unmasked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maskdpo_ray.errors import ConfigError, MaskError
from maskdpo_ray.models.token_spans import added_tokens, num_trailing, special_ids, token_spans
from maskdpo_ray.records import CORRECT, INCORRECT, LABELS, Annotation

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
    if eos not in ("last_sentence", "keep", "drop"):
        raise ValueError(f"eos: expected last_sentence, keep or drop, got {eos!r}")
    sentences = _sentences(text, spans, span_weights)
    starts = [start for start, _, _ in sentences]
    ends = [end for _, end, _ in sentences]
    weights = [weight for _, _, weight in sentences]
    # White space at a block's edges is in no one's way: " It" goes with the sentence of "It" here, too.
    thoughts = [_inner(text, *block) for block in blocks if text[slice(*block)].strip()]

    special = special_ids(tokenizer, token_ids)
    ranges = token_spans(tokenizer, token_ids, text, special, stopped)
    result, first, last = [], 0, 0  # of the sentences; they advance with the tokens
    for start, end in ranges:
        # An empty range counts as lying in the sentence around it.
        while first < len(ends) and ends[first] <= start:
            first += 1
        while last < len(starts) and starts[last] < end:
            last += 1
        if last == first + 1:
            result.append(weights[first])
        elif first < last:
            result.append(min(weights[first:last]))
        else:
            result.append(min(weights[max(first - 1, 0) : first + 1]))
        if any(begin <= start and end <= stop for begin, stop in blocks) or any(
            begin < end and start < stop for begin, stop in thoughts
        ):
            result[-1] = 0.0
    is_end = [int(token) in special for token in token_ids]
    if ranges and ranges[-1][0] >= ends[-1]:
        is_left_out = stopped and ranges[-1] == (len(text), len(text))
        is_end[-1] |= is_left_out or int(token_ids[-1]) in added_tokens(tokenizer)
    num_special = num_trailing(is_end)
    if num_special:
        at_end = {"last_sentence": weights[-1], "keep": 1.0, "drop": 0.0}[eos]
        result[-num_special:] = [at_end] * num_special
    return result


def _sentences(
    text: str, spans: Sequence[tuple[int, int]], span_weights: Sequence[float]
) -> list[tuple[int, int, float]]:
    """(start, end, weight) in order of the text, outer white space left out."""
    if len(spans) != len(span_weights):
        raise MaskError(f"{len(spans)} spans, but {len(span_weights)} weights")
    if not spans:
        raise MaskError("no spans: an answer without sentences has no mask")
    sentences: list[tuple[int, int, float]] = []
    previous_end = 0
    located = sorted(zip(spans, span_weights, strict=True), key=lambda item: tuple(item[0]))
    for (start, end), weight in located:
        where = f"span ({start}, {end})"
        if not 0 <= start < end <= len(text):
            raise MaskError(f"{where}: expected 0 <= start < end <= {len(text)}, the text's length")
        if start < previous_end:
            raise MaskError(f"{where} overlaps the one that ends at {previous_end}")
        if not (math.isfinite(weight) and weight >= 0):
            raise MaskError(f"{where}: expected a finite weight of at least 0, got {weight}")
        if not text[start:end].strip():
            raise MaskError(f"{where} holds white space only")
        sentences.append((*_inner(text, start, end), float(weight)))
        previous_end = end
    return sentences


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

    def __post_init__(self) -> None:
        for side in SIDES:
            object.__setattr__(self, side, _checked_weights(getattr(self, side), side))

    @classmethod
    def from_config(cls, value: str | Mapping[str, Mapping[str, float]]) -> MaskPolicy:
        """The policy that `mask.policy` names or spells out.

        Args:
            value: "mask_dpo", "vanilla", or {"chosen": {label: weight}, "rejected": {...}} with
                every label on both sides.

        Raises ConfigError, one line, on anything else.
        """
        named = {"mask_dpo": MASK_DPO, "vanilla": VANILLA}
        if isinstance(value, str) and value in named:
            return named[value]
        if not isinstance(value, Mapping):
            names = ", ".join(named)
            raise ConfigError(f"mask.policy: expected {names} or a table of weights, got {value!r}")
        if set(value) != set(SIDES):
            keys = ", ".join(map(str, value))
            raise ConfigError(f"mask.policy: expected the keys chosen and rejected, got {keys}")
        return cls(value["chosen"], value["rejected"])

    def span_weights(self, annotation: Annotation, side: str) -> list[float]:
        """Weights of an answer's sentences, in their order. Raises MaskError on an unknown label."""
        if side not in SIDES:
            raise ValueError(f"side: expected chosen or rejected, got {side!r}")
        table = self.chosen if side == "chosen" else self.rejected
        for sentence in annotation.sentences:
            if sentence.label not in table:
                raise MaskError(f"label {sentence.label!r}: expected one of {', '.join(LABELS)}")
        return [table[sentence.label] for sentence in annotation.sentences]


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
